"""Frozen encoders."""

from clipret.backbones.loading import load_backbone
from clipret.backbones.openai import Backbone
from clipret.backbones.tokens import CONTEXT_LENGTH, find_too_long

__all__ = ["CONTEXT_LENGTH", "Backbone", "find_too_long", "load_backbone"]
