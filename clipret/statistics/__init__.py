"""Confidence intervals and significance tests, computed from stored ranks."""
