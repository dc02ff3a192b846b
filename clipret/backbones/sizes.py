"""Whether a model that a file describes is of the size of its weights, before a library makes room for it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clipret.backbones.loading import quiet
from clipret.errors import BackboneError
from clipret.machine.records import RecordError, read_record

# No encoder has more layers; a library makes them one by one.
_MOST_LAYERS = 10_000
# Height and width of images in any preprocessing.
MOST_SIDE = 8_192
# Parameters that are in no file: of parts that are tied, or never used.
_EXCESS, _MARGIN = 2, 1 << 24


def require_size(make: Callable[[], nn.Module], *, config: Path, files: Iterable[Path]) -> None:
    """Raise BackboneError if a model has more parameters than its weights can hold, which have a byte each at least.

    make    makes the model by the config; called where tensors have no memory
    config  the file that describes it, for the number of its layers and the message
    files   its weights
    """
    try:
        layers = max(_layers(read_record(config, {})), default=0)
    except (OSError, RecordError) as error:
        raise BackboneError(f"cannot read {config}: {getattr(error, 'strerror', None) or error}.") from None
    if layers > _MOST_LAYERS:
        raise BackboneError(f"{config} describes a model of {layers:,} layers; expected at most {_MOST_LAYERS:,}.")
    try:
        with quiet(), torch.device("meta"):
            model = make()
    except Exception:
        # What is wrong is said when the model is loaded.
        return
    parameters = sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    size = sum(file.stat().st_size for file in files)
    if parameters > _EXCESS * size + _MARGIN:
        raise BackboneError(
            f"{config} describes a model of {parameters:,} parameters, and its weights are {size:,} bytes; expected "
            f"the config that was saved with these weights."
        )


def require_sides(settings: dict, *, name: str) -> None:
    """Raise BackboneError if a preprocessing would make images too large to be meant.

    settings  of an image processor of transformers
    """
    for key in ("size", "crop_size", "pad_size"):
        sizes = settings.get(key) or {}
        largest = max((side for side in sizes.values() if isinstance(side, int)), default=0)
        if largest > MOST_SIDE:
            raise BackboneError(f"the preprocessing of {name} has {key} {largest:,}; expected at most {MOST_SIDE:,}.")


def require_statistics(mean: tuple, std: tuple, *, name: str) -> None:
    """Raise BackboneError unless mean and std of a preprocessing are three finite numbers, those of std above 0."""
    for part, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not np.isfinite(values).all() or (part == "std" and min(values) <= 0):
            listed = "/".join(map(str, values)) or "of no values"
            raise BackboneError(
                f"the preprocessing of {name} has the {part} {listed}; expected three numbers"
                f"{' above 0' if part == 'std' else ''}, one for each colour."
            )


def _layers(values: dict) -> Iterator[int]:
    """All numbers of layers, wherever they are."""
    waiting = [values]
    while waiting:
        for key, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif "layers" in key or key in ("depth", "depths"):
                yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, int))
