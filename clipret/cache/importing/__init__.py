"""Ready-made features -> a cache: `clipret import` and clipret.write_cache.

sources.py  arrays, iterators and files of features, read in pieces
files.py    .npy, .safetensors, Parquet and Arrow as sources; which files a path or pattern means
tables.py   Parquet or Arrow with a row for each row of features -> columns
spools.py   texts that wait on the disk until it is certain how many there are
columns.py  ids, files, captions, splits, and which image a caption is of
rows.py     checks of each row, and writing it
writing.py  all of it together: write_cache
stage.py    all of it together: import_features
"""
