"""Intervals and significance, from stored ranks alone."""
