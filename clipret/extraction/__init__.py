"""Stage 1: a data set and a frozen encoder -> features.h5, by one process or several under torchrun.

stage         extract(): the steps in order
planning      which rows are encoded, and in which batches
encoding      batches -> features: by worker processes on the CPU, or on a GPU while worker processes decode images
processes     the processes of torchrun: which rows each one owns, and waiting for each other
checking      clipret check
verification  clipret verify
"""

from clipret.extraction.processes import Rank, current_rank
from clipret.extraction.stage import extract

__all__ = ["Rank", "current_rank", "extract"]
