"""Frozen encoders."""

from clipret.backbones.openai import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
