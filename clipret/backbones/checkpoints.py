"""CLIP checkpoints, in the forms that trainers save -> clip's model."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from clipret.backbones.architecture import expected_shapes
from clipret.backbones.clip_package import build_clip
from clipret.backbones.pickles import StandIn, StoredTensor
from clipret.backbones.tensor_files import DTYPES, MOST_INFLATION, TensorFile, open_tensors
from clipret.errors import BackboneError

# Every CLIP has the first of these names and at least two of the others, with a common prefix.
_ANCHORS = ("visual.conv1.weight", "token_embedding.weight", "ln_final.weight", "text_projection")
# Tensors that decide the features and the head; others, such as those of a loss, do not.
_HEAD = ("text_projection", "logit_scale")
_READ = ("visual.", "transformer.", "token_embedding", "positional_embedding", "ln_final", *_HEAD)
# Tensors that clip computes itself or does not use.
_CONSTANTS = ("attn_mask", "position_ids", "num_batches_tracked")
_MOST_LETTERS = 500
# Limits: depth of nested dicts, and objects in a TorchScript archive.
_MOST_DEPTH, _MOST_OBJECTS = 4, 50_000


def load_checkpoint(path: Path, *, device: str) -> tuple[torch.nn.Module, Callable]:
    """clip's model on a device and its preprocessing, like clip.load: float32 on the CPU, float16 on CUDA.

    The file is a state dict of torch or safetensors, possibly nested as trainers save it, or a TorchScript archive. No
    code in it is run.

    Raises BackboneError that says what the file is instead, what is missing, or what clip does not support.
    """
    with _explained(path), open_tensors(path) as file:
        stored = _stored_clip(file, size=path.stat().st_size)
        weights = {name: file.read(value) for name, value in stored.items()}
        model, preprocess = build_clip(weights)
        _require_finite(model, weights=weights)
    return (model.to(device).float() if device == "cpu" else model.to(device)), preprocess


def read_context_length(path: Path) -> int:
    """The most tokens that a checkpoint's text tower reads. No tensor is read. Raises as load_checkpoint does."""
    with _explained(path), open_tensors(path) as file:
        return _stored_clip(file, size=path.stat().st_size)["positional_embedding"].shape[0]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Inside, warnings are ignored, and what reading a checkpoint raises becomes a BackboneError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ValueError as error:
        raise BackboneError(f"{path} {error}.") from error
    except OSError as error:
        raise BackboneError(f"cannot read {path}: {error.strerror or error}.") from error
    except (MemoryError, RuntimeError) as error:
        reason = (str(error) or "out of memory").splitlines()[0]
        raise BackboneError(f"cannot build clip's model from {path}: {reason}.") from error


@dataclass(frozen=True)
class _State:
    """A state dict in a file: the path of keys to it, the prefix of its names, and the dict itself."""

    where: str
    prefix: str
    values: dict

    def clip(self) -> dict[str, StoredTensor | StandIn]:
        """The tensors of the model, and objects in place of tensors, by clip's names."""
        return {
            name[len(self.prefix) :]: value
            for name, value in self.values.items()
            if name.startswith(self.prefix)
            and not name.endswith(_CONSTANTS)
            and isinstance(value, StoredTensor | StandIn)
        }


def _stored_clip(file: TensorFile, *, size: int) -> dict[str, StoredTensor]:
    """Where the tensors of a CLIP are in a file of `size` bytes; raises ValueError unless they are clip's own."""
    state = _find_state(file.root)
    stored = {name: value for name, value in state.clip().items() if name.startswith(_READ)}
    _require_kinds(stored, prefix=state.prefix)
    expected = expected_shapes({name: value.shape for name, value in stored.items()})
    expected = {name: shape for name, shape in expected.items() if not name.endswith(_CONSTANTS)}
    _require_names(stored, expected=expected, prefix=state.prefix)
    _require_shapes(stored, expected=expected, prefix=state.prefix)
    declared = sum(math.prod(value.shape) * DTYPES[value.kind].itemsize for value in stored.values())
    if declared > MOST_INFLATION * size:
        raise ValueError(f"declares {declared:,} bytes of tensors, but has only {size:,} bytes")
    return stored


def _find_state(root: object) -> _State:
    """The only CLIP in a file; raises ValueError for none or several."""
    if isinstance(root, StandIn) and root.path.startswith("__torch__."):
        root = _script_state(root)
    tensors, modules, states = [], [], []
    for where, values in _dicts_of(root):
        states += [_State(where, prefix, values) for prefix in _prefixes(values)]
        tensors += [name for name, value in values.items() if isinstance(value, StoredTensor)]
        modules += [value.path for value in values.values() if _is_module(value)]
    if len(states) == 1:
        return states[0]
    if states:
        places = " and ".join(sorted(_shown(f"{state.where}{state.prefix}*") for state in states)[:4])
        raise ValueError(f"holds several CLIPs, {places}; save the one you need alone: torch.save(WEIGHTS, PATH)")
    modules += [root.path] if _is_module(root) else []
    if modules:
        raise ValueError(
            f"holds a whole pickled module ({_shown(modules[0])}), which only its own code can read; "
            f"save its weights where that code is installed: torch.save(model.state_dict(), PATH)"
        )
    if not tensors:
        raise ValueError("holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH)")
    count = f"{len(tensors):,} tensors" if len(tensors) > 1 else "a tensor"
    kind = "Hugging Face's names" if any("vision_model." in name for name in tensors) else "other names"
    raise ValueError(
        f"holds {count} by {kind} ({_listed(tensors, most=2)}); expected OpenAI's, as in "
        f"{', '.join(_ANCHORS)}. --model takes OpenAI's published models by name, without a file"
    )


def _dicts_of(root: object) -> Iterator[tuple[str, dict]]:
    """The dicts in a file, without repetition, with the path of keys to them."""
    visited, waiting = set(), [("", root, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        if id(value) in visited or not isinstance(value, dict | StandIn):
            continue
        visited.add(id(value))
        value = value.items if isinstance(value, StandIn) else value
        yield where, value
        if depth < _MOST_DEPTH:
            parts = [(key, part) for key, part in value.items() if isinstance(part, dict | StandIn)]
            waiting += [(f"{where}{_shown(key)}/", part, depth + 1) for key, part in parts]


def _script_state(module: StandIn) -> dict[str, StoredTensor]:
    """The tensors of a TorchScript module by the names of its state_dict()."""
    tensors, waiting, count = {}, [("", module)], 0
    while waiting:
        prefix, part = waiting.pop()
        state = part.state if isinstance(part.state, dict) else {}
        count += 1 + len(state)
        if count > _MOST_OBJECTS or len(prefix) > _MOST_LETTERS:
            raise ValueError("holds a TorchScript module of more or deeper parts than any CLIP")
        for name, value in state.items():
            if isinstance(value, StoredTensor):
                tensors[prefix + name] = value
            elif isinstance(value, StandIn):
                waiting.append((f"{prefix}{name}.", value))
    return tensors


def _prefixes(values: dict) -> list[str]:
    """Prefixes of the names of CLIPs in a dict: "", "module.", "model." and the like."""
    first, *others = _ANCHORS
    prefixes = [name.removesuffix(first) for name in values if name.endswith(first)]
    return [
        prefix
        for prefix in prefixes
        if prefix[-1:] in ("", ".") and sum(prefix + anchor in values for anchor in others) >= 2
    ]


def _is_module(value: object) -> bool:
    return isinstance(value, StandIn) and isinstance(value.state, dict) and "_modules" in value.state


def _require_names(stored: dict, *, expected: dict, prefix: str) -> None:
    missing = [prefix + name for name in expected if name not in stored]
    if missing:
        raise ValueError(f"lacks {_listed(missing)}; expected every tensor of clip's model, by OpenAI's names")
    surplus = [prefix + name for name in stored if name not in expected]
    if surplus:
        raise ValueError(
            f"holds {_listed(surplus)} beside clip's own tensors; clip's model has no such part, and would compute "
            f"other features than the trained model"
        )


def _require_kinds(stored: dict, *, prefix: str) -> None:
    for name, value in stored.items():
        kind = value.kind if isinstance(value, StoredTensor) else value.path
        if kind not in DTYPES:
            raise ValueError(
                f"holds {_shown(prefix + name)} as {_shown(kind)}; expected float16, bfloat16, float32 or float64; "
                f"convert the weights and save them again"
            )


def _require_shapes(stored: dict, *, expected: dict, prefix: str) -> None:
    wrong = [name for name, value in stored.items() if value.shape != expected[name]]
    # clip accepts a logit scale of shape (1,).
    wrong = [name for name in wrong if expected[name] or stored[name].shape != (1,)]
    if wrong:
        name, more = wrong[0], f", and {len(wrong) - 1:,} more of other shapes" if len(wrong) > 1 else ""
        raise ValueError(
            f"holds {_shown(prefix + name)} of shape {stored[name].shape}; its other tensors require "
            f"{expected[name]}{more}"
        )


def _listed(names: list[str], *, most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(_shown(name) for name in names[:most]) + more


def _shown(name: str) -> str:
    """A name from a file, shortened and escaped."""
    return repr(name[:80])[1:-1]


def _require_finite(model: torch.nn.Module, *, weights: dict[str, torch.Tensor]) -> None:
    for name, value in model.state_dict().items():
        if all(map(math.isfinite, torch.stack(torch.aminmax(value)).tolist())):
            continue
        if weights[name].isfinite().all():
            raise ValueError(
                f"holds values in {name} above 65,504, the maximum of float16, to which clip rounds weights"
            )
        raise ValueError(f"holds NaN or infinite values in {name}; its training diverged, or the file is damaged")
