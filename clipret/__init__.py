"""Cross-modal retrieval with frozen CLIP: extract features once, then train and evaluate on them alone.

from clipret import ExtractConfig, TrainConfig, EvalConfig, FeatureCache, extract, train, evaluate
"""

import importlib

__version__ = "0.1.0"

# Imported when first used: stage 2 must not load CLIP, and `clipret --help` must not load torch.
_WHERE = {
    "CheckConfig": "config",
    "Client": "service.client",
    "ClipretError": "errors",
    "CompareConfig": "config",
    "DatasetConfig": "config",
    "DownloadConfig": "config",
    "EmbedConfig": "config",
    "EvalConfig": "config",
    "ExportConfig": "config",
    "ExtractConfig": "config",
    "FailuresConfig": "config",
    "FeatureCache": "cache",
    "FeaturesConfig": "config",
    "ImportConfig": "config",
    "LookConfig": "config",
    "MergeConfig": "config",
    "ReportConfig": "config",
    "ReproduceConfig": "config",
    "SearchConfig": "config",
    "ServeConfig": "config",
    "SweepConfig": "config",
    "TrainConfig": "config",
    "VerifyConfig": "config",
    "check_dataset": "extraction.checking",
    "compare": "evaluation.comparison.stage",
    "download": "datasets.downloads.stage",
    "embed": "exports.embeddings.stage",
    "evaluate": "evaluation.stage",
    "export": "exports.checkpoints.stage",
    "extract": "extraction",
    "find_failures": "evaluation.failures",
    "import_features": "cache.importing.stage",
    "load_head": "exports.head",
    "look": "reporting.pages.look",
    "merge": "cache.merging",
    "open_features": "cache",
    "open_run": "exports.model",
    "recipe_settings": "config.recipes",
    "report": "reporting.pages.stage",
    "reproduce": "evaluation.reproduction.stage",
    "resume": "training",
    "search": "service.stage",
    "serve": "service.server",
    "sweep": "sweeps",
    "train": "training",
    "verify": "extraction.verification",
    "write_cache": "cache.importing.writing",
    "zero_shot": "exports.model",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        value = getattr(importlib.import_module(f"clipret.{_WHERE[name]}"), name)
        results = importlib.import_module("clipret.reporting.results")
        if name in results.SHOWN:
            # Kept, so that it is one function: other processes find it by its name.
            value = globals()[name] = results.showing(value, name=name)
        return value
    raise AttributeError(f"module 'clipret' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
