"""What both stages know of images and captions."""

from clipret.annotations.columns import Annotations, concatenate, default_caption_ids

__all__ = ["Annotations", "concatenate", "default_caption_ids"]
