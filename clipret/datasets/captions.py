"""Captions on their way from an annotation file to CLIP: cleaned, then put into the prompt."""

import functools
import sys
import unicodedata

from clipret.config import DatasetConfig


def clean_caption(caption: str, how: str) -> str:
    """A caption without surrounding or repeated white space, cleaned as config.CAPTION_CLEANINGS says.

    none               untouched, white space included
    lower              in lower case
    strip-punctuation  without the characters that Unicode calls punctuation
    """
    if how == "none":
        return caption
    cleaned = caption.lower() if how == "lower" else caption.translate(_punctuation())
    return " ".join(cleaned.split())


def prompted(captions: list[str], config: DatasetConfig) -> list[str]:
    """The texts that CLIP reads for these captions: the same list where nothing is added or cleaned."""
    if (config.prompt, config.caption_clean) == ("{}", "none"):
        return captions
    return [config.prompt.replace("{}", clean_caption(caption, config.caption_clean)) for caption in captions]


@functools.cache
def _punctuation() -> dict[int, None]:
    return {code: None for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("P")}
