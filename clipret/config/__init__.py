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
    SPLIT_PROTOCOLS,
    SPLITS,
    TEMPERATURE_LOSSES,
    TRACKERS,
    VIOLATIONS,
)
from clipret.config.commands import to_command, to_dict
from clipret.config.comparison import CompareConfig
from clipret.config.data import DatasetConfig, DownloadConfig, ExtractConfig
from clipret.config.evaluation import EvalConfig
from clipret.config.failures import FailuresConfig
from clipret.config.margins import Margin
from clipret.config.metric_names import DIRECTIONS, METRICS
from clipret.config.reproduction import ReproduceConfig
from clipret.config.sweeps import SweepConfig
from clipret.config.training import TrainConfig

__all__ = [
    "BACKGROUNDS",
    "BATCH_SIZES",
    "BUNDLED_MODELS",
    "COLUMNS",
    "DATA_DIR",
    "DIRECTIONS",
    "FAST_DECODERS",
    "HEADS",
    "INITS",
    "LOSSES",
    "MARGIN_LOSSES",
    "METRICS",
    "PROTOCOLS",
    "REDUCTIONS",
    "SPLITS",
    "SPLIT_PROTOCOLS",
    "TEMPERATURE_LOSSES",
    "TRACKERS",
    "VIOLATIONS",
    "CompareConfig",
    "DatasetConfig",
    "DownloadConfig",
    "EvalConfig",
    "ExtractConfig",
    "FailuresConfig",
    "Margin",
    "MergeConfig",
    "ReproduceConfig",
    "SweepConfig",
    "TrainConfig",
    "VerifyConfig",
    "to_command",
    "to_dict",
]
