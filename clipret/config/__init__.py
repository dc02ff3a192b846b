"""Every setting and its default, as frozen dataclasses that refuse bad values when they are made.

The command line, the Python functions and the files of a run all read their defaults from here and nowhere else.
"""

from clipret.config.caches import MergeConfig, VerifyConfig
from clipret.config.choices import (
    BACKGROUNDS,
    BATCH_SIZES,
    BUNDLED_MODELS,
    COLUMNS,
    DATA_DIR,
    FAST_DECODERS,
    PROTOCOLS,
    REDUCTIONS,
    SPLITS,
)
from clipret.config.commands import to_command, to_dict
from clipret.config.data import DatasetConfig, DownloadConfig, ExtractConfig
from clipret.config.heads import EvalConfig, TrainConfig

__all__ = [
    "BACKGROUNDS",
    "BATCH_SIZES",
    "BUNDLED_MODELS",
    "COLUMNS",
    "DATA_DIR",
    "FAST_DECODERS",
    "PROTOCOLS",
    "REDUCTIONS",
    "SPLITS",
    "DatasetConfig",
    "DownloadConfig",
    "EvalConfig",
    "ExtractConfig",
    "MergeConfig",
    "TrainConfig",
    "VerifyConfig",
    "to_command",
    "to_dict",
]
