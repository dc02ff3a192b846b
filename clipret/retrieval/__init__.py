"""Embeddings -> exact ranks of the matching items, in tiles. The only package that multiplies queries by a gallery."""
