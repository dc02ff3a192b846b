"""A head of the user's own: a class in a Python file, FILE.py:NAME.

It is called with one argument, `projections`, and returns an nn.Module with the methods embed_images and embed_texts:

    class MLP(nn.Module):
        def __init__(self, projections):
            ...
        def embed_images(self, features): ...     # (N, D_i) -> (N, E')
        def embed_texts(self, features): ...      # (N, D_t) -> (N, E')

projections  the encoder's own: image/weight (D_i, E), text/weight (D_t, E), and image/bias, text/bias (E,), which are 0
             where the encoder has none; float32 tensors, new for every call
features     float32, as the cache has them
E'           any width, the same for both; rows are normalised here

All that it learns has to be parameters or persistent buffers: they are what a run keeps, as safetensors. Whatever it
draws from torch's generator follows from the run's seed, when it is made and in every step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from clipret.errors import HeadError, UsageError
from clipret.heads.base import SIDES, Head, Tensors, clip_tensors
from clipret.machine.own_code import OwnCode, changed, open_code

KIND = "own"
# The copy of its file, beside the head's own file in a run's folder.
COPY = "own_head.py"


@dataclass(frozen=True)
class Recipe:
    """What makes a head anew: its code, and the seed that it draws with."""

    code: OwnCode
    seed: int

    def make(self, projections: Mapping[str, np.ndarray]) -> "OwnHead":
        """The head before its first step, on the CPU. Raises UsageError, or HeadError when the code makes none."""
        kind = self.code.load()
        clip = {name.replace("_", "/", 1): tensor for name, tensor in clip_tensors(projections).items()}
        for side in SIDES:
            clip.setdefault(f"{side}/bias", torch.zeros(clip[f"{side}/weight"].shape[1]))
        if not callable(kind):
            raise UsageError(f"{self.code} is {type(kind).__name__}; expected a class or function that makes a head.")
        widths = [clip[f"{side}/weight"].shape[0] for side in ("image", "text")]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = _call(self.code, "", kind, clip, expected="it is called with one argument, projections")
        with self.code.guarded(HeadError, str(self.code)):
            methods = [getattr(module, name, None) for name in ("embed_images", "embed_texts")]
            if not isinstance(module, nn.Module) or not all(map(callable, methods)):
                raise HeadError(
                    f"{self.code} makes {type(module).__name__}; expected an nn.Module with methods embed_images and "
                    f"embed_texts."
                )
            head = OwnHead(module, recipe=self, projections=projections, widths=widths)
            _require_plain(self.code, [*head.named_parameters(), *head.named_buffers()])
            if not head.tensors:
                raise HeadError(f"{self.code} makes a head without parameters and buffers; nothing learns.")
            return head


class OwnHead(Head):
    """The user's module as a Head. Its tensors are the module's parameters and persistent buffers, under `module.`."""

    kind = KIND

    def __init__(self, module: nn.Module, *, recipe: Recipe, projections: Mapping[str, np.ndarray], widths: list[int]):
        """projections, which it was made of; widths of image and text features."""
        nn.Module.__init__(self)
        self.module, self.recipe, self._projections, self._widths = module, recipe, projections, widths

    @property
    def tensors(self) -> Tensors:
        """As of a Head; what the module has under two names is there once."""
        kept = self.state_dict().keys()
        named = [*self.named_parameters(), *self.named_buffers()]
        return {name: tensor.detach() for name, tensor in named if name in kept}

    @property
    def widths(self) -> str:
        """As of a Head."""
        return "image {}, text {}".format(*self._widths)

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: where its code was, the file's sha256, and the seed."""
        code = self.recipe.code
        return {"code": f"{code.path}:{code.name}", "code_sha256": code.sha256, "seed": str(self.recipe.seed)}

    def like(self, tensors: Mapping[str, torch.Tensor]) -> "OwnHead":
        """As of a Head. Raises HeadError when its module has other tensors than these."""
        # Made anew: not every module can be copied.
        head = self.recipe.make(self._projections).to(_device(self.tensors))
        return head.filled(tensors).requires_grad_(False).train(self.training)

    def __deepcopy__(self, memo: dict) -> "OwnHead":
        return self.like(self.tensors)

    def filled(self, tensors: Mapping[str, torch.Tensor]) -> "OwnHead":
        """Itself, with these tensors copied into its own. Raises HeadError when its module has others."""
        own, other = ({name: tuple(t.shape) for name, t in these.items()} for these in (self.tensors, tensors))
        if own != other:
            names = sorted(name for name in own | other if own.get(name) != other.get(name))
            raise HeadError(
                f"{self.recipe.code} makes a head whose tensors are not those of the run: {', '.join(names[:3])} "
                f"{'differs' if len(names) == 1 else 'differ'}; its shapes must follow from projections alone."
            )
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(tensors[name])
        return self

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """The tensors that it started with, which need not compute CLIP's embeddings."""
        device = _device(self.tensors)
        return {name: tensor.to(device) for name, tensor in self.recipe.make(projections).tensors.items()}

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._embed("embed_images", features)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._embed("embed_texts", features)

    def _embed(self, method: str, features: torch.Tensor) -> torch.Tensor:
        parameter = next(self.module.parameters(), features)
        if torch.compiler.is_compiling():
            # An export for any number of rows: what is checked below would fix it.
            return functional.normalize(getattr(self.module, method)(features.to(parameter.dtype)), dim=-1)
        expected = f"{len(features):,} rows of floating-point numbers, one for each feature"
        # A copy, for the code may write into it.
        function, features = getattr(self.module, method), features.to(parameter.dtype, copy=True)
        rows = _call(self.recipe.code, f".{method}", function, features, expected=f"expected {expected}")
        if not isinstance(rows, torch.Tensor):
            raise HeadError(f"{self.recipe.code}.{method} returned {type(rows).__name__}; expected {expected}.")
        if rows.dim() != 2 or len(rows) != len(features) or not rows.shape[1] or not rows.is_floating_point():
            shape = f"{tuple(rows.shape)} {str(rows.dtype).removeprefix('torch.')}"
            raise HeadError(f"{self.recipe.code}.{method} returned a tensor {shape}; expected {expected}.")
        return functional.normalize(rows, dim=-1)


def load_own_head(
    path: Path, tensors: Callable[[], Tensors], *, metadata: Mapping[str, str], projections: Mapping[str, np.ndarray]
) -> OwnHead:
    """The head of a file, by the copy of its code beside it; a remark where the user's own file has changed since.

    tensors  called once the code was run

    Raises HeadError, and UsageError when the code was never named by the user.
    """
    word, sha256, seed = (metadata.get(name, "") for name in ("code", "code_sha256", "seed"))
    original, _, name = word.rpartition(":")
    if not name.isidentifier() or not seed.isdecimal() or int(seed) >= 1 << 63:
        raise HeadError(f"head {path} does not say in its metadata which code makes it; train it again.")
    beside = path.parent / COPY
    try:
        code = open_code(f"{beside}:{name}", named=False)
    except UsageError:
        raise HeadError(f"head {path} needs its code, {beside}, which cannot be read; restore it there.") from None
    if code.sha256 != sha256:
        raise HeadError(
            f"{beside} is not the code that head {path} was trained with: its sha256 is {code.sha256[:12]}, expected "
            f"{sha256[:12]}; restore it."
        )
    head = Recipe(code, int(seed)).make(projections).filled(tensors())
    if now := changed(Path(original), sha256=sha256):
        head.remarks = (
            f"{original} has changed since {path.parent} was trained (sha256 {sha256[:12]}, now {now[:12]}); the copy "
            f"in the run's folder was used",
        )
    return head.eval()


def _call(code: OwnCode, what: str, function: Callable, argument, *, expected: str):
    with code.guarded(HeadError, f"{code}{what}", expected=expected):
        return function(argument)


def _device(tensors: Tensors) -> torch.device:
    return next(iter(tensors.values())).device


def _require_plain(code: OwnCode, named: list[tuple[str, torch.Tensor]]) -> None:
    """What a head has can be trained, copied and kept as it is: numbers in memory, one for each place."""
    for name, tensor in named:
        fault = (
            "no shape yet"
            if is_lazy(tensor)
            else f"the layout {tensor.layout}"
            if tensor.layout != torch.strided
            else f"the device {tensor.device}"
            if tensor.device.type != "cpu"
            else "places that share their memory"
            if 0 in tensor.stride() and tensor.numel() > 1
            else None
        )
        if fault:
            raise HeadError(
                f"{code} makes a head whose {name.removeprefix('module.')} has {fault}; expected a dense tensor on the "
                f"CPU, of a shape that follows from projections."
            )
