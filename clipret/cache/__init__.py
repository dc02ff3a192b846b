"""features.h5: schema, writer, reader. The only importer of h5py.

Layout, format 1 (N images, M captions, D feature widths, E embedding width):

    /image/features (N, D_image)  /image/id /image/file /image/split /image/state /image/problem /image/checksum (N,)
    /image/sha256 (N, 2, 32) of the image files  /image/single_colour (N, 2), whether the encoder sees one colour only
    /text/features (M, D_text)    /text/id /text/caption /text/image /text/state /text/checksum (M,)
    /text/tokens (M, 2)
    with --tap, the tokens that go into the encoder's last block (taps.py), and that block:
    /image/tap (N, T, W)  /text/tap (L, W)  /text/tap_starts (M + 1,)  /image/tap_sum (N,)  /text/tap_sum (M,)
    /image/tap_scale /text/tap_scale of int8  /projection/image/block /projection/text/block
    /image/micro_batch /text/micro_batch (2,), rows of a micro-batch after running out of memory; 0: none
    /projection/image/weight (D_image, E)  /projection/image/bias (E,)
    /projection/text/weight (D_text, E)    /projection/text/bias (E,)   /projection/logit_scale ()
                                  weights are missing of encoders that were never aligned, biases where there is none
    attributes: format, fingerprint, inputs (JSON, what the fingerprint is computed from), about (JSON, everything else)

When several processes extract, each writes one shard: the arrays that change, for its own rows (parts.py). The cache is
then built from all shards at once. It may leave the features in the shards; they are then HDF5 virtual data sets.

The whole structure is written before the first feature, to a temporary name, and the file is then renamed. After that
only fixed-size raw data changes, so the file can be opened even if its writer was killed.
"""

from clipret.cache.access import file_lock, locked, require_writable
from clipret.cache.assembling import assemble, cache_blocks, smallest
from clipret.cache.joining import discard_shards, join_shards
from clipret.cache.joint import cache_paths, open_features
from clipret.cache.layout import DONE, FORMAT, PENDING, SIDES, UNUSABLE, CacheContents, require_same
from clipret.cache.opening import found_about
from clipret.cache.parts import Part, found_parts, shard_path
from clipret.cache.reading import FeatureCache
from clipret.cache.verifying import check_rows, check_texts
from clipret.cache.writing import CacheWriter, open_writer

__all__ = [
    "DONE",
    "FORMAT",
    "PENDING",
    "SIDES",
    "UNUSABLE",
    "CacheContents",
    "CacheWriter",
    "FeatureCache",
    "Part",
    "assemble",
    "cache_blocks",
    "cache_paths",
    "check_rows",
    "check_texts",
    "discard_shards",
    "file_lock",
    "found_about",
    "found_parts",
    "join_shards",
    "locked",
    "open_features",
    "open_writer",
    "require_same",
    "require_writable",
    "shard_path",
    "smallest",
]
