"""Heads in files: safetensors, never pickle."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from clipret.errors import HeadError
from clipret.heads import HEADS, load_head_kind
from clipret.heads.base import PROJECTION_NAMES, SIDES, Head, MetadataError
from clipret.heads.own import KIND, load_own_head
from clipret.machine.tensors import TensorFile, TensorsError, open_tensors, write_tensors
from clipret.runs import reason

FORMAT = "1"
# Beside the head's own tensors: the keys of the images that it was trained on.
_TRAINED_ON = "trained_on"
_BIASES = {"image_bias", "text_bias"}
# In the metadata, of heads whose loss has them: what stands between cosines and probabilities.
_SCALARS = ("log_scale", "bias")


def save_head(head: Head, *, path: Path, metadata: dict[str, str], trained_on: np.ndarray | None = None) -> None:
    """Write the head atomically: a reader sees the old file or the whole new one.

    It holds all tensors of the head, learned or not, and in its metadata format, kind, widths and the kind's own
    (Head.metadata).

    metadata    what else a user of the file needs to know, such as the model's name and the cache's fingerprint
    trained_on  (K,) uint64, keys of the images that it was trained on (leakage.training_keys); None: not known
    """
    about = {"format": FORMAT, "kind": head.kind, "widths": head.widths, **head.metadata}
    keys = {} if trained_on is None else {_TRAINED_ON: torch.from_numpy(trained_on)}
    write_tensors(path, head.tensors | keys, metadata=about | metadata)


def load_trained_on(path: Path) -> np.ndarray | None:
    """(K,) uint64, the keys of the images that a head was trained on; None: its file has none. Raises HeadError."""
    file = _open(path)
    shape = file.shapes.get(_TRAINED_ON)
    if shape is None:
        return None
    if file.dtypes[_TRAINED_ON] != "U64" or len(shape) != 1:
        raise HeadError(
            f"head {path} has {_TRAINED_ON} as {file.dtypes[_TRAINED_ON]} {shape}; expected U64 (images,). Train it "
            f"again."
        )
    return _read(file)[_TRAINED_ON].numpy()


def scalar_metadata(scalars: Mapping[str, float]) -> dict[str, str]:
    """The scalars of a loss as save_head's metadata: log_scale, the logarithm of the factor of cosines, and bias.

    They are written so that load_scalars gives the same numbers. Others are left out.
    """
    return {name: repr(float(scalars[name])) for name in _SCALARS if name in scalars}


def load_scalars(path: Path) -> dict[str, float]:
    """The scalars of the loss that a head was trained by, log_scale and bias, as far as its file has them.

    Heads of losses without them have none, and so have those of before clipret kept them. Raises HeadError.
    """
    metadata = _open(path).metadata
    scalars = {name: _number(metadata[name]) for name in _SCALARS if name in metadata}
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise HeadError(
                f"head {path} has {name} '{metadata[name]}' in its metadata; expected a finite number. Train it again."
            )
    return scalars


def load_head(path: Path, *, projections: dict[str, np.ndarray], weights_sha256: str) -> Head:
    """Read a head for the features of one CLIP model.

    projections     those of the cache it will be used with; they give the widths
    weights_sha256  the cache's; a head works on the features of the very weights it was trained on, and no others

    Raises HeadError when the file is missing, is no head, is incomplete, or is one for other features.
    """
    file = _open(path)
    metadata = file.metadata
    shapes = {name: shape for name, shape in file.shapes.items() if name != _TRAINED_ON}
    kind = metadata.get("kind")
    if kind == KIND and metadata.get("format") == FORMAT:
        _require_model(path, metadata, weights_sha256=weights_sha256)
        return load_own_head(path, lambda: _weights(file), metadata=metadata, projections=projections)
    if kind not in HEADS or metadata.get("format") != FORMAT:
        actual = f"kind {metadata.get('kind', 'none')}, format {metadata.get('format', 'none')}"
        raise HeadError(
            f"{path} is not a head that this clipret reads ({actual}); expected kind {' or '.join(HEADS)}, format "
            f"{FORMAT}."
        )
    head = load_head_kind(kind)
    try:
        expected = head.shapes(projections, actual=shapes, metadata=metadata)
        _require_shapes(path, shapes, expected=expected, metadata=metadata)
        _require_model(path, metadata, weights_sha256=weights_sha256)
        return head.load(_weights(file), metadata=metadata)
    except MetadataError as error:
        raise HeadError(
            f"head {path} has {error.name} '{metadata.get(error.name, 'none')}' in its metadata; expected "
            f"{error.expected}. Train it again."
        ) from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def load_head_alone(path: Path) -> Head:
    """Read a head without the cache that it is for: the widths are those of its file. Raises HeadError as load_head.

    Not one of the user's own, which is made of an encoder's projections (needs_projections).
    """
    file = _open(path)
    # Of the projections, the shapes alone count.
    shapes = {name.replace("_", "/"): file.shapes[name] for name in PROJECTION_NAMES if name in file.shapes}
    missing = {f"{side}/weight" for side in SIDES} - shapes.keys()
    projections = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    if missing or any(len(shapes[f"{side}/weight"]) != 2 for side in SIDES):
        # load_head says what the file is instead.
        projections = {f"{side}/weight": np.zeros((1, 1), dtype=np.float32) for side in SIDES}
    return load_head(path, projections=projections, weights_sha256=file.metadata.get("weights_sha256", "unknown"))


def needs_projections(path: Path) -> bool:
    """Whether a head's file is read with an encoder's projections alone: one of the user's own. Raises HeadError."""
    return _open(path).metadata.get("kind") == KIND


def _open(path: Path) -> TensorFile:
    try:
        return open_tensors(path)
    except FileNotFoundError:
        raise HeadError(f"there is no head at {path}; expected a head.safetensors written by clipret train.") from None
    except (OSError, TensorsError) as error:
        raise HeadError(
            f"{path} is not a readable safetensors file ({reason(error)}); expected one written by clipret train."
        ) from None


def _weights(file: TensorFile) -> dict[str, torch.Tensor]:
    """The head's tensors, floating-point numbers as float32 and all of them finite. Raises HeadError."""
    stored = {name: tensor for name, tensor in _read(file).items() if name != _TRAINED_ON}
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    for name, tensor in tensors.items():
        # A head of the user's own may have what is not finite among its buffers, such as a mask of -inf.
        if file.metadata.get("kind") != KIND and not torch.isfinite(tensor).all():
            raise HeadError(f"tensor {name} of head {file.path} has values that are not finite; train it again.")
    return tensors


def _read(file: TensorFile) -> dict[str, torch.Tensor]:
    try:
        if file.metadata.get("kind") != KIND:
            file.require_dtypes(names=set(file.shapes) - {_TRAINED_ON})
        return file.read()
    except TensorsError as error:
        raise HeadError(f"head {file.path} cannot be used: {error}; train it again.") from None


def _require_shapes(path: Path, shapes: dict[str, tuple], *, expected: dict, metadata: dict[str, str]) -> None:
    # A bias too many or too few is another model's: a matter of widths.
    missing, unknown = (
        sorted(names - _BIASES) for names in (expected.keys() - shapes.keys(), shapes.keys() - expected.keys())
    )
    if missing:
        raise HeadError(f"head {path} is incomplete: tensors {', '.join(missing)} are missing; train it again.")
    if unknown:
        raise HeadError(
            f"head {path} has tensors {', '.join(unknown)}, which a head of kind {metadata['kind']} does not have; "
            f"train it again."
        )
    if shapes != expected:
        raise HeadError(
            f"head {path} does not fit the widths of the cache: it has {_listed(shapes)}, the cache needs "
            f"{_listed(expected)}; use a cache of model {metadata.get('model', 'unknown')}."
        )


def _require_model(path: Path, metadata: dict[str, str], *, weights_sha256: str) -> None:
    trained_on = metadata.get("weights_sha256", "unknown")
    if trained_on != weights_sha256:
        raise HeadError(
            f"head {path} was trained on features of model {metadata.get('model', 'unknown')} with weights "
            f"{trained_on[:12]}; the weights of the cache are {weights_sha256[:12]}. Use a cache of that model."
        )


def _listed(shapes: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
