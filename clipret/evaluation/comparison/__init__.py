"""Comparison of runs, with intervals and tests of their differences."""
