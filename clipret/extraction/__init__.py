"""Stage 1: a data set and a frozen backbone -> features.h5, by one process or by several that torchrun starts.

stage     extract(): what is done in which order
planning  which rows are encoded, and in which batches
encoding  batches -> features: by processes on the CPU, or on a device that processes decode images for
ranks     the processes of torchrun: who owns which rows, and waiting for each other
"""

from clipret.extraction.processes import Rank, current_rank
from clipret.extraction.stage import extract

__all__ = ["Rank", "current_rank", "extract"]
