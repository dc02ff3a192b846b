"""Heads in files: safetensors, never pickle."""

from pathlib import Path

import numpy as np
import torch

from clipret.errors import HeadError
from clipret.heads.modules import AdapterHead, Head, LinearHead
from clipret.machine.tensors import TensorFile, TensorsError, open_tensors, write_tensors
from clipret.runs import reason

FORMAT = "1"
_KINDS = (LinearHead.kind, AdapterHead.kind)
# Beside the head's own tensors: the keys of the images that it was trained on.
_TRAINED_ON = "trained_on"


def save_head(head: Head, *, path: Path, metadata: dict[str, str], trained_on: np.ndarray | None = None) -> None:
    """Write the head atomically: a reader sees the old file or the whole new one.

    It holds all tensors of the head, learned or not, and in its metadata format, kind, widths and, of an adapter,
    ratio, relu and sides.

    metadata    what else a user of the file needs to know, such as the model's name and the cache's fingerprint
    trained_on  (K,) uint64, keys of the images that it was trained on (leakage.training_keys); None: not known
    """
    tensors = head.tensors
    (image, width), (text, _) = tensors["image_weight"].shape, tensors["text_weight"].shape
    about = {
        "format": FORMAT,
        "kind": head.kind,
        "widths": f"image {image}, text {text}, embedding {width}",
        **head.settings,
    }
    keys = {} if trained_on is None else {_TRAINED_ON: torch.from_numpy(trained_on)}
    write_tensors(path, tensors | keys, metadata=about | metadata)


def load_trained_on(path: Path) -> np.ndarray | None:
    """(K,) uint64, the keys of the images that a head was trained on; None: its file has none. Raises HeadError."""
    file = _open(path)
    shape = file.shapes.get(_TRAINED_ON)
    if shape is None:
        return None
    if file.dtypes[_TRAINED_ON] != "U64" or len(shape) != 1:
        raise HeadError(
            f"head {path} keeps {_TRAINED_ON} as {file.dtypes[_TRAINED_ON]} {shape}; expected U64 (images,). Train it "
            f"again."
        )
    return _read(file)[_TRAINED_ON].numpy()


def load_head(path: Path, *, projections: dict[str, np.ndarray], weights_sha256: str) -> Head:
    """Read a head for the features of one CLIP model.

    projections     those of the cache it will be used with; they give the widths
    weights_sha256  the cache's; a head works on the features of the very weights it was trained on, and no others

    Raises HeadError when the file is missing, is no head, is not whole, or is one for other features.
    """
    file = _open(path)
    metadata = file.metadata
    shapes = {name: shape for name, shape in file.shapes.items() if name != _TRAINED_ON}
    kind = metadata.get("kind")
    if kind not in _KINDS or metadata.get("format") != FORMAT:
        found = f"kind {metadata.get('kind', 'none')}, format {metadata.get('format', 'none')}"
        raise HeadError(
            f"{path} is not a head that this clipret reads ({found}); expected kind {' or '.join(_KINDS)}, format "
            f"{FORMAT}."
        )
    settings = _settings(path, metadata) if kind == AdapterHead.kind else {}
    expected = _expected(projections, shapes, sides=settings.pop("sides", ()))
    _require_names(path, set(shapes), expected=set(expected), kind=kind)
    model = metadata.get("model", "unknown")
    if shapes != expected:
        raise HeadError(
            f"head {path} is of other widths than the cache: it has {_listed(shapes)}, "
            f"the cache needs {_listed(expected)}; use a cache of model {model}."
        )
    if metadata.get("weights_sha256") != weights_sha256:
        raise HeadError(
            f"head {path} was trained on features of model {model} with weights "
            f"{metadata.get('weights_sha256', 'unknown')[:12]}, the cache's are {weights_sha256[:12]}; they do not fit."
        )
    tensors = _weights(file)
    return LinearHead(tensors) if kind == LinearHead.kind else AdapterHead(tensors, **settings)


def _open(path: Path) -> TensorFile:
    try:
        return open_tensors(path)
    except FileNotFoundError:
        raise HeadError(f"there is no head at {path}; expected a head.safetensors written by clipret train.") from None
    except (OSError, TensorsError) as error:
        raise HeadError(
            f"{path} is not a readable safetensors file ({reason(error)}); expected one by clipret train."
        ) from None


def _weights(file: TensorFile) -> dict[str, torch.Tensor]:
    """The head's tensors as float32, all of them finite. Raises HeadError."""
    tensors = {name: tensor.float() for name, tensor in _read(file).items() if name != _TRAINED_ON}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise HeadError(f"head {file.path} holds values in {name} that are not finite; train it again.")
    return tensors


def _read(file: TensorFile) -> dict[str, torch.Tensor]:
    try:
        file.require_dtypes(names=set(file.shapes) - {_TRAINED_ON})
        return file.read()
    except TensorsError as error:
        raise HeadError(f"head {file.path} cannot be used: {error}; train it again.") from None


def _settings(path: Path, metadata: dict[str, str]) -> dict:
    """An adapter's ratio, relu and sides."""
    relus, sides = {"true": True, "false": False}, {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
    try:
        ratio = float(metadata.get("ratio", ""))
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        _refuse(path, "ratio", metadata, expected="a number from 0 to 1")
    if metadata.get("relu") not in relus:
        _refuse(path, "relu", metadata, expected="true or false")
    if metadata.get("sides") not in sides:
        _refuse(path, "sides", metadata, expected="both, image or text")
    return {"ratio": ratio, "relu": relus[metadata["relu"]], "sides": sides[metadata["sides"]]}


def _refuse(path: Path, name: str, metadata: dict[str, str], *, expected: str) -> None:
    raise HeadError(
        f"head {path} is an adapter with {name} '{metadata.get(name, 'none')}' in its metadata; expected {expected}. "
        f"Train it again."
    )


def _expected(projections: dict[str, np.ndarray], actual: dict[str, tuple], *, sides: tuple[str, ...]) -> dict:
    """Name -> shape of a head for these projections; an adapter's bottleneck is as wide as that of its own `down`."""
    head = LinearHead(projections)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.tensors.items()}
    width = shapes["text_weight"][1]
    for side in sides:
        down = actual.get(f"{side}_down", ())
        bottleneck = down[1] if len(down) == 2 else 1
        shapes |= {f"{side}_down": (width, bottleneck), f"{side}_up": (bottleneck, width)}
    return shapes


def _require_names(path: Path, found: set[str], *, expected: set[str], kind: str) -> None:
    # A bias too many or too few is another model's, which is said with the widths.
    lacking, foreign = expected - found - {"image_bias"}, found - expected - {"image_bias"}
    if lacking:
        raise HeadError(f"head {path} is not whole: it lacks {', '.join(sorted(lacking))}; train it again.")
    if foreign:
        raise HeadError(
            f"head {path} holds {', '.join(sorted(foreign))}, which this {kind} head has no place for; train it again."
        )


def _listed(shapes: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
