"""Embeddings -> exact ranks of the matching items, in tiles. The only place that multiplies queries by gallery."""
