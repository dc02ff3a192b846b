"""OpenAI's CLIP, frozen: preprocessing, tokens, penultimate features, initial projections. The only importer of `clip`.

Shape suffixes: B batch, S image side, C context length, D feature width, E embedding width.
"""

import functools
import hashlib
import importlib.metadata
import importlib.resources
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn import functional

from clipret.config import BUNDLED_MODELS
from clipret.errors import BackboneError
from clipret.progress import Progress, ProgressCallback, silent

# Tokens that every published CLIP reads, start and end included.
CONTEXT_LENGTH = 77
# How far penultimate features times projection may be from CLIP's own output, relative to that output's largest value.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP.

    name            as asked for: an OpenAI name, a bundled name or a path
    weights_sha256  of the checkpoint file
    library         the distribution that `import clip` comes from, with its version
    model           clip's own module, in eval mode
    preprocess      clip's own transform: PIL image -> (3, S, S) float32
    """

    name: str
    weights_sha256: str
    library: str
    model: torch.nn.Module
    preprocess: Callable
    _clip: ModuleType

    @property
    def image_side(self) -> int:
        """S: height and width of the pixels that the image tower takes."""
        return self.model.visual.input_resolution

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.text_projection.device

    @property
    def precision(self) -> str:
        """The type that the towers compute in: float32 on the CPU, float16 on CUDA, as clip loads them."""
        return str(self.model.dtype).removeprefix("torch.")

    def tokenize(self, captions: list[str]) -> tuple[torch.Tensor, np.ndarray]:
        """(B, C) token ids, too long captions truncated by clip itself, and (B,) token counts before truncation."""
        context = self.model.context_length
        ids = self._clip.tokenize(captions, context_length=context, truncate=True)
        # The end-of-text token has the highest id of all.
        counts = ids.argmax(dim=1).numpy() + 1
        for row in np.flatnonzero(counts == context):
            counts[row] = len(self._clip.clip._tokenizer.encode(captions[row])) + 2
        return ids, counts

    @torch.inference_mode()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) preprocessed pixels -> (B, D) penultimate features, in the tower's type.

        Vision transformer: the class token after ln_post, the input of visual.proj. ResNet: the attention-pooled
        vector, the input of visual.attnpool.c_proj.
        """
        visual = self.model.visual
        pixels = pixels.to(self.device, self.model.dtype)
        return _transformer_features(visual, pixels) if hasattr(visual, "proj") else _resnet_features(visual, pixels)

    @torch.inference_mode()
    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, C) token ids -> (B, D) penultimate features, in the tower's type.

        ln_final at the end-of-text position, the input of text_projection.
        """
        model, tokens = self.model, tokens.to(self.device)
        x = model.token_embedding(tokens).type(model.dtype)
        x = x + model.positional_embedding.type(model.dtype)
        x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = model.ln_final(x).type(model.dtype)
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]

    def projections(self) -> dict[str, np.ndarray]:
        """CLIP's own head in float32: image/weight (D_i, E), text/weight (D_t, E), logit_scale, ResNets' image/bias."""
        visual, found = self.model.visual, {}
        if hasattr(visual, "proj"):
            found["image/weight"] = visual.proj
        else:
            found["image/weight"] = visual.attnpool.c_proj.weight.T
            found["image/bias"] = visual.attnpool.c_proj.bias
        found["text/weight"] = self.model.text_projection
        found["logit_scale"] = self.model.logit_scale
        return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in found.items()}

    @torch.inference_mode()
    def require_exact(self, side: str, *, inputs: torch.Tensor, features: torch.Tensor) -> None:
        """Raise BackboneError unless features times projection is what clip itself computes from the inputs.

        side      image or text
        inputs    pixels or tokens, as for encode_image and encode_text
        features  what encode_image or encode_text made of them
        """
        if side == "image":
            reference = self.model.encode_image(inputs.to(self.device, self.model.dtype))
        else:
            reference = self.model.encode_text(inputs.to(self.device))
        head = {name: torch.from_numpy(value).to(self.device) for name, value in self.projections().items()}
        ours = features.float() @ head[f"{side}/weight"] + head.get(f"{side}/bias", 0)
        error = ((ours - reference.float()).abs().max() / reference.abs().max().float().clamp_min(1e-12)).item()
        if not error <= _TOLERANCE[self.model.dtype]:
            raise BackboneError(
                f"{side} features of {self.name} times its projection differ from clip's own output by {error:.1e} "
                f"(relative; at most {_TOLERANCE[self.model.dtype]:.0e} is rounding). Nothing was written; this model "
                f"or this version of clip ({self.library}) is not one that clipret understands."
            )


def load_backbone(name_or_path: str, *, device: str = "cpu", download_root: Path | None = None) -> Backbone:
    """Load a frozen CLIP.

    name_or_path   one of OpenAI's names (downloaded by clip when missing), a bundled model, or the path of a
                   checkpoint: a plain state dict or a TorchScript archive
    device         cpu (computes in float32) or cuda (float16)
    download_root  where OpenAI's weights are kept; ~/.cache/clip by default

    Raises BackboneError when clip is missing, the name is unknown, the weights cannot be fetched, or the file is not
    a CLIP checkpoint.
    """
    clip = _import_clip()
    name = str(name_or_path)
    if name in clip.available_models():
        return _load_published(clip, name, device, download_root)
    if name in BUNDLED_MODELS:
        path = Path(str(importlib.resources.files("clipret") / "assets" / f"{name}.pt"))
    else:
        path = Path(name)
    if not path.is_file():
        known = ", ".join([*clip.available_models(), *BUNDLED_MODELS])
        raise BackboneError(f"unknown model '{name}'; expected one of {known}, or the path of a CLIP checkpoint.")
    try:
        model, preprocess = _load_quietly(clip, str(path), device)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        raise BackboneError(
            f"{path} is not a readable CLIP checkpoint ({type(error).__name__}: {reason}); "
            f"expected an OpenAI state dict or TorchScript archive, whole."
        ) from error
    return Backbone(name, _sha256(path), _library(), model.eval(), preprocess, clip)


def find_too_long(texts: list[str], *, on_progress: ProgressCallback = silent) -> np.ndarray:
    """Rows, ascending, of the texts of more than CONTEXT_LENGTH tokens; needs clip's tokenizer and no weights.

    on_progress  called every 10,000 texts, with phase "captions"
    """
    encode, rows = _import_clip().clip._tokenizer.encode, []
    count = functools.cache(lambda word: len(encode(word)))
    most = CONTEXT_LENGTH - 2
    for row, text in enumerate(texts):
        if not text.isascii() or "&" in text:
            # Only here does clip's cleaning look beyond a word, or make text longer.
            too_long = len(encode(text)) > most
        else:
            # A token covers a byte or more, and none covers white space.
            too_long = len(text) > most and sum(map(count, text.split())) > most
        if too_long:
            rows.append(row)
        if (row + 1) % 10_000 == 0 or row + 1 == len(texts):
            on_progress(Progress("captions", row + 1, len(texts)))
    return np.array(rows, dtype=np.int64)


def _load_published(clip: ModuleType, name: str, device: str, download_root: Path | None) -> Backbone:
    url = clip.clip._MODELS[name]
    try:
        model, preprocess = _load_quietly(clip, name, device, download_root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise BackboneError(
            f"cannot download the weights of {name}: {getattr(error, 'reason', error)}. "
            f"Fetch {url} on a machine with a network and give its path: --model PATH"
        ) from None
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"cannot load the weights of {name}: {str(error).splitlines()[0]}; "
            f"delete {Path(url).name} in the download folder, or give another one with --download-root."
        ) from error
    # clip has compared the file with the sha256 in its address.
    return Backbone(name, url.split("/")[-2], _library(), model.eval(), preprocess, clip)


def _load_quietly(clip: ModuleType, name: str, device: str, download_root: Path | None = None):
    with warnings.catch_warnings():
        # TorchScript archives are how OpenAI publishes; that torch deprecates them is nothing a user can act on.
        warnings.simplefilter("ignore")
        root = str(download_root) if download_root else None
        return clip.load(name, device=device, jit=False, download_root=root)


def _transformer_features(visual: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    x = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
    class_token = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = torch.cat([class_token, x], dim=1) + visual.positional_embedding.to(x.dtype)
    x = visual.transformer(visual.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)
    return visual.ln_post(x[:, 0, :])


def _resnet_features(visual: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    x = visual.relu1(visual.bn1(visual.conv1(pixels)))
    x = visual.relu2(visual.bn2(visual.conv2(x)))
    x = visual.avgpool(visual.relu3(visual.bn3(visual.conv3(x))))
    x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(x))))
    pool = visual.attnpool
    x = x.flatten(2).permute(0, 2, 1)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding.to(x.dtype)
    query, key, value = (
        linear(rows).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for linear, rows in ((pool.q_proj, x[:, :1]), (pool.k_proj, x), (pool.v_proj, x))
    )
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)


def _import_clip() -> ModuleType:
    install = "run: pip install clip-anytorch 'setuptools>=77.0.3,<82'"
    try:
        with warnings.catch_warnings():
            # clip imports pkg_resources, which warns that it is deprecated.
            warnings.simplefilter("ignore")
            import clip
    except ImportError as error:
        raise BackboneError(f"OpenAI's clip cannot be imported ({error}); {install}") from None
    if not all(hasattr(clip, name) for name in ("load", "tokenize", "available_models")):
        raise BackboneError(
            f"the installed package `clip` ({getattr(clip, '__file__', 'unknown')}) is another project, not OpenAI's; "
            f"run: pip uninstall clip, then {install}"
        )
    return clip


def _library() -> str:
    distributions = importlib.metadata.packages_distributions().get("clip", [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(distributions))) or "unknown"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
