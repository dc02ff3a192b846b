"""Checks whether a cache reproduces published results, and explains common causes of differences."""
