"""Splits of a cache -> queries, galleries and matches; and the guard against trained images among them."""
