"""The projections of an encoder, from a file or from the caller."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipret.cache.checksums import LARGEST
from clipret.errors import DatasetError
from clipret.machine.files import require_file
from clipret.machine.tensors import TensorsError, open_tensors

_NAMES = ("image/weight", "image/bias", "text/weight", "text/bias", "logit_scale")


def read_projections(path: Path) -> dict[str, np.ndarray]:
    """Those in a .npz or .safetensors file. Raises DatasetError when it is none, or they do not fit each other."""
    try:
        require_file(path)
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        elif path.suffix.lower() == ".safetensors":
            arrays = open_tensors(path).read_arrays()
        else:
            raise DatasetError(f"{path} is no file of projections; expected .npz or .safetensors.")
    except (OSError, ValueError, TensorsError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(f"{path} cannot be read: {reason}.") from None
    return check_projections(arrays, name=str(path))


def check_projections(arrays: Mapping[str, np.ndarray], *, name: str) -> dict[str, np.ndarray]:
    """Projections (D, E) of both sides, with biases (E,) and logit_scale where they have them, as float32.

    Raises DatasetError when one is missing, unknown, of another shape or not finite.
    """
    unknown = sorted(set(arrays) - set(_NAMES))
    if unknown:
        raise DatasetError(f"{name} has {unknown[0]}; expected {', '.join(_NAMES)}.")
    values = {key: np.asarray(value) for key, value in arrays.items()}
    for key in ("image/weight", "text/weight"):
        if key not in values or values[key].ndim != 2:
            raise DatasetError(f"{name} has no {key} (D, E); expected image/weight and text/weight.")
    width = values["image/weight"].shape[1]
    shapes = {"text/weight": (values["text/weight"].shape[0], width), "logit_scale": ()}
    shapes |= {f"{side}/bias": (width,) for side in ("image", "text")}
    for key, value in values.items():
        shape = shapes.get(key, value.shape)
        if value.dtype.kind != "f" or value.shape != shape:
            raise DatasetError(f"{name}: {key} is {value.dtype} {value.shape}; expected floats {shape}.")
        if not (np.abs(value) <= LARGEST).all():
            raise DatasetError(f"{name}: {key} has values that are not finite, or beyond {LARGEST:g}.")
    return {key: value.astype(np.float32) for key, value in values.items()}
