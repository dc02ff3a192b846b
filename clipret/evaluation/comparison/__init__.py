"""Runs side by side, with intervals and tests of their differences."""
