"""Frozen encoders."""

from clipret.backbones.openai import CONTEXT_LENGTH, Backbone, find_too_long, load_backbone

__all__ = ["CONTEXT_LENGTH", "Backbone", "find_too_long", "load_backbone"]
