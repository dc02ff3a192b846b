"""Every setting and its default, as frozen dataclasses that refuse bad values when they are made.

The command line, the Python functions and the files of a run all read their defaults from here and nowhere else.
"""

from clipret.config.caches import MergeConfig, VerifyConfig
from clipret.config.choices import (
    BATCH_SIZES,
    BUNDLED_MODELS,
    COLUMNS,
    DATA_DIR,
    FAST_DECODERS,
    PROTOCOLS,
    SPLIT_PROTOCOLS,
    SPLITS,
)
from clipret.config.commands import to_command, to_dict
from clipret.config.comparison import CompareConfig
from clipret.config.data import CheckConfig, DatasetConfig, DownloadConfig, ExtractConfig
from clipret.config.embeddings import EmbedConfig
from clipret.config.evaluation import EvalConfig
from clipret.config.exports import ExportConfig
from clipret.config.failures import FailuresConfig
from clipret.config.imports import FEATURE_KINDS, FeaturesConfig, ImportConfig
from clipret.config.margins import Margin
from clipret.config.metric_names import DIRECTIONS, METRICS
from clipret.config.reports import LookConfig, ReportConfig
from clipret.config.reproduction import ReproduceConfig
from clipret.config.service import SearchConfig, ServeConfig
from clipret.config.sweeps import SweepConfig
from clipret.config.training import TrainConfig

__all__ = [
    "BATCH_SIZES",
    "BUNDLED_MODELS",
    "COLUMNS",
    "DATA_DIR",
    "DIRECTIONS",
    "FAST_DECODERS",
    "FEATURE_KINDS",
    "METRICS",
    "PROTOCOLS",
    "SPLITS",
    "SPLIT_PROTOCOLS",
    "CheckConfig",
    "CompareConfig",
    "DatasetConfig",
    "DownloadConfig",
    "EmbedConfig",
    "EvalConfig",
    "ExportConfig",
    "ExtractConfig",
    "FailuresConfig",
    "FeaturesConfig",
    "ImportConfig",
    "LookConfig",
    "Margin",
    "MergeConfig",
    "ReportConfig",
    "ReproduceConfig",
    "SearchConfig",
    "ServeConfig",
    "SweepConfig",
    "TrainConfig",
    "VerifyConfig",
    "to_command",
    "to_dict",
]
