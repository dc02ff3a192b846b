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
    HEADS,
    INITS,
    LOSSES,
    MARGIN_LOSSES,
    PROTOCOLS,
    REDUCTIONS,
    SPLITS,
    TEMPERATURE_LOSSES,
    TRACKERS,
    VIOLATIONS,
)
from clipret.config.commands import to_command, to_dict
from clipret.config.data import DatasetConfig, DownloadConfig, ExtractConfig
from clipret.config.evaluation import EvalConfig
from clipret.config.margins import Margin
from clipret.config.sweeps import SweepConfig
from clipret.config.training import TrainConfig

__all__ = [
    "BACKGROUNDS",
    "BATCH_SIZES",
    "BUNDLED_MODELS",
    "COLUMNS",
    "DATA_DIR",
    "FAST_DECODERS",
    "HEADS",
    "INITS",
    "LOSSES",
    "MARGIN_LOSSES",
    "PROTOCOLS",
    "REDUCTIONS",
    "SPLITS",
    "TEMPERATURE_LOSSES",
    "TRACKERS",
    "VIOLATIONS",
    "DatasetConfig",
    "DownloadConfig",
    "EvalConfig",
    "ExtractConfig",
    "Margin",
    "MergeConfig",
    "SweepConfig",
    "TrainConfig",
    "VerifyConfig",
    "to_command",
    "to_dict",
]
