"""Heads: the trainable map from cached features to embeddings, and their files.

modules        LinearHead, CLIP's projections made trainable; AdapterHead, a residual adapter behind them
files          safetensors, never pickle
interpolation  wise-ft: between CLIP's own head and a trained one
"""

from clipret.heads.files import load_head, load_trained_on, save_head
from clipret.heads.interpolation import interpolate, wise_ft
from clipret.heads.modules import AdapterHead, Head, LinearHead, build_head, parameter_names

__all__ = [
    "AdapterHead",
    "Head",
    "LinearHead",
    "build_head",
    "interpolate",
    "load_head",
    "load_trained_on",
    "parameter_names",
    "save_head",
    "wise_ft",
]
