"""Embeddings of a cache, in files for other programs.

stage        from a config to the files
rows         which rows are embedded, in which order, with their texts
computing    their embeddings, in blocks
outputs      files that grow, what is recorded of them, and their final names
record       what is written beside the files: of which cache and head they are
writing      what every format has: the texts in JSON lines, beside formats that have no place for them
npy, npz, parquet, safetensors   the formats
"""
