"""features.h5: schema, writer, reader. The only importer of h5py.

Layout, format 1 (N images, M captions, D feature widths, E embedding width):

    /image/features (N, D_image)  /image/id /image/file /image/split /image/state /image/problem (N,)
    /text/features (M, D_text)    /text/id /text/caption /text/image /text/state /text/tokens (M,)
    /projection/image/weight (D_image, E)  /projection/image/bias (E,), ResNets only
    /projection/text/weight (D_text, E)    /projection/logit_scale ()
    attributes: format, fingerprint, inputs (JSON, what the fingerprint is made of), about (JSON, everything else)

All structure is written before the first feature, under another name, and the finished file is put in place. From then
on only fixed-size raw data changes, so the file opens whenever its writer is killed.
"""

from clipret.cache.layout import DONE, FORMAT, PENDING, UNUSABLE, CacheContents
from clipret.cache.reading import FeatureCache
from clipret.cache.writing import CacheWriter, open_writer

__all__ = [
    "DONE",
    "FORMAT",
    "PENDING",
    "UNUSABLE",
    "CacheContents",
    "CacheWriter",
    "FeatureCache",
    "open_writer",
]
