"""Splits of a cache -> queries, galleries and matches; and the check that no test image was trained on."""
