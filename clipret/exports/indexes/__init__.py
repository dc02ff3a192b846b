"""Indexes of embeddings, by libraries that search in them. One file a library, that binds write_index."""
