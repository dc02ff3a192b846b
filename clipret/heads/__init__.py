"""Heads: the trainable map from cached features to embeddings, how they start, and their files.

modules        LinearHead, CLIP's projections made trainable; AdapterHead, a residual adapter behind them
initial        the tensors that a training starts from: CLIP's own, random, or of closed_form
closed_form    Procrustes and ridge, from the training pairs in one pass
files          safetensors, never pickle
interpolation  wise-ft: between CLIP's own head and a trained one
"""

from clipret.heads.files import load_head, load_trained_on, save_head
from clipret.heads.initial import initial_tensors, ridge_strength
from clipret.heads.interpolation import interpolate, wise_ft
from clipret.heads.modules import AdapterHead, Head, LinearHead, build_head, parameter_names
from clipret.measurement import embed

__all__ = [
    "AdapterHead",
    "Head",
    "LinearHead",
    "build_head",
    "embed",
    "initial_tensors",
    "interpolate",
    "load_head",
    "load_trained_on",
    "parameter_names",
    "ridge_strength",
    "save_head",
    "wise_ft",
]
