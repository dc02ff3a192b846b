"""Encoding a sample of a cache's rows again, and comparing what comes out with what is stored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clipret.backbones import load_backbone
from clipret.backbones.matching import load_matching
from clipret.backbones.protocol import Backbone, TokenBackbone
from clipret.cache import DONE, FeatureCache
from clipret.cache.taps import StoredTokens
from clipret.config import FAST_DECODERS, VerifyConfig
from clipret.datasets.captions import prompted
from clipret.errors import CacheError, UsageError
from clipret.extraction.imported import comparable, encoder_name, sampled_sides
from clipret.extraction.tapping import end_of
from clipret.images import ImageReader
from clipret.images.padding import crop_of
from clipret.machine.devices import choose_device
from clipret.machine.progress import Progress, ProgressCallback

# What the checks of a sample end with, after images or captions.
AGAIN = "encoded again"
_ENCODED_AT_ONCE = 16
_SHOWN = 10
# Largest difference between a feature encoded again and the cached one, relative to the feature's largest value: from
# rounding in the stored type, and from another order of additions in other kernels or on another device.
_TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# Largest length of the difference of two tokens, relative to the token's, for the type that tokens are stored in. Of
# int8 a number is off by half a step, 1/254 of the token's largest: at a width of 1,024 by 0.073 in all at most.
_TOKEN_TOLERANCES = {"float16": 2e-2, "int8": 1e-1}
# For images that a GPU decoded: here they are decoded exactly.
_TOLERANCE_OF_NVJPEG = 0.2


@dataclass(frozen=True)
class _Again:
    """Some rows encoded again.

    features  (B, D) float32
    failed    positions of images that cannot be read
    tokens    (B, L, W) float32, the tokens that go into the last block, where the cache has them
    lengths   (B,) how many of them are a row's own
    """

    features: np.ndarray
    failed: list[int]
    tokens: np.ndarray | None = None
    lengths: np.ndarray | None = None


def check_entry(name: str, rows: int | None, *, faults: list[str], bad_rows: list[int] | None = None) -> dict:
    """A check of `verify`, as its result lists it."""
    return {"name": name, "rows": rows, "faults": faults, "bad_rows": bad_rows or []}


def rows_in_words(rows: np.ndarray) -> str:
    """How many rows, and the first of them."""
    shown = ", ".join(str(row) for row in rows[:_SHOWN])
    return f"{len(rows):,} rows: {shown}{', ...' if len(rows) > _SHOWN else ''}"


def check_sample(
    cache: FeatureCache, config: VerifyConfig, *, bad_rows: dict[str, list[int]], on_progress: ProgressCallback
) -> list[dict]:
    """Encode random finished rows again and compare features, and tokens where the cache has them: check entries.

    bad_rows  image, text -> rows that are left out, as they are not what was written

    Raises as load_backbone does, and UsageError when the model is not that of the cache, CacheError without images.
    """
    sides = sampled_sides(cache)
    backbone = _backbone_of(cache, config)
    if cache.taps and backbone.last_blocks is None:
        raise UsageError(
            f"{cache.path} has tokens of a last block, and those inside {backbone.name} (family {backbone.family}) "
            f"cannot be computed; name the encoder that it was extracted with by --model."
        )
    generator = np.random.default_rng(config.seed)
    states = {"image": cache.image_states, "text": cache.text_states}
    encode = {
        side: _image_encoder(cache, backbone, config=config) if side == "image" else _text_encoder(cache, backbone)
        for side in sides
    }
    checks = []
    for side in sides:
        done = np.setdiff1d(np.flatnonzero(states[side] == DONE), bad_rows[side])
        rows = np.sort(generator.choice(done, size=min(config.sample, len(done)), replace=False))
        sample = _Sample(cache, backbone, side)
        for start in range(0, len(rows), _ENCODED_AT_ONCE):
            batch = rows[start : start + _ENCODED_AT_ONCE]
            sample.compare(batch, encode[side](batch))
            on_progress(Progress(f"{sample.what} {AGAIN}", start + len(batch), len(rows)))
        checks += sample.checks(len(rows))
    return checks


class _Sample:
    """What came of encoding rows of one side again."""

    def __init__(self, cache: FeatureCache, backbone: Backbone, side: str):
        self._cache, self._backbone, self._side = cache, backbone, side
        self.what = "images" if side == "image" else "captions"
        self._unreadable: list[int] = []
        self._bad: dict[str, list[int]] = {"features": []} | ({"tokens": []} if side in cache.taps else {})
        self._largest = dict.fromkeys(self._bad, 0.0)

    def compare(self, rows: np.ndarray, again: _Again) -> None:
        """Compare rows (B,) of the cache with the same encoded again."""
        self._unreadable += rows[again.failed].tolist()
        kept = np.setdiff1d(np.arange(len(rows)), again.failed)
        cache, side, rows = self._cache, self._side, rows[kept]
        cached = cache.read(side, rows)
        errors = _errors(*comparable(cache, self._backbone, side, cached=cached, again=again.features[kept]))
        self._note("features", rows, errors=errors, tolerance=_tolerance(cache, side))
        if again.tokens is not None:
            stored = cache.read_tokens(side, rows)
            errors = _token_errors(stored, again.tokens[kept], lengths=again.lengths[kept])
            self._note("tokens", rows, errors=errors, tolerance=_token_tolerance(cache, side))

    def checks(self, count: int) -> list[dict]:
        """Check entries of `count` rows."""
        entries = []
        for name, bad in self._bad.items():
            faults = []
            if bad:
                differ = f"they differ by up to {self._largest[name]:.1e}: {rows_in_words(np.array(bad))}"
                faults.append(f"encoded again, {differ}")
            if self._unreadable and name == "features":
                faults.append(f"can no longer be read: {rows_in_words(np.array(self._unreadable))}")
            what = self.what if name == "features" else f"tokens of {self.what}"
            entries.append(check_entry(f"{what} {AGAIN}", count, faults=faults, bad_rows=bad))
        return entries

    def _note(self, name: str, rows: np.ndarray, *, errors: np.ndarray, tolerance: float) -> None:
        self._bad[name] += rows[~(errors <= tolerance)].tolist()
        self._largest[name] = max([self._largest[name], *errors.tolist()])


def _errors(cached: np.ndarray, again: np.ndarray) -> np.ndarray:
    """(B,) the largest difference in a row, relative to the largest value of the row encoded again."""
    cached, again = cached.astype(np.float64), again.astype(np.float64)
    return np.abs(cached - again).max(axis=1) / np.maximum(np.abs(again).max(axis=1), 1e-12)


def _token_errors(stored: StoredTokens, again: np.ndarray, *, lengths: np.ndarray) -> np.ndarray:
    """(B,) of each row the largest length of a difference of tokens, relative to the token's.

    again, lengths  (B, L, W), and (B,) how many of the L are a row's own. A row that has others is infinitely far
    """
    errors = np.full(len(stored), np.inf)
    alike = np.flatnonzero((stored.lengths == lengths) & (stored.values.shape[1] == again.shape[2]))
    if len(alike):
        stored = stored.take(alike)
        there = np.arange(again.shape[1]) < stored.lengths[:, None]
        tokens = again[alike][there].astype(np.float64)
        apart = np.linalg.norm(stored.numbers() - tokens, axis=1)
        relative = apart / np.maximum(np.linalg.norm(tokens, axis=1), 1e-12)
        errors[alike] = np.maximum.reduceat(relative, np.cumsum(stored.lengths) - stored.lengths)
    return errors


def _tolerance(cache: FeatureCache, side: str) -> float:
    if cache.imported:
        # Nobody knows in which precision they were computed.
        return max(_TOLERANCES.values())
    return _as_decoded(cache, side, max(_TOLERANCES[cache.inputs[name]] for name in ("precision", "dtype")))


def _token_tolerance(cache: FeatureCache, side: str) -> float:
    rounding = max(_TOLERANCES[cache.inputs["precision"]], _TOKEN_TOLERANCES[cache.taps[side].dtype])
    return _as_decoded(cache, side, rounding)


def _as_decoded(cache: FeatureCache, side: str, rounding: float) -> float:
    by_gpu = side == "image" and cache.inputs["decode"] == FAST_DECODERS["cuda"]
    return max(rounding, _TOLERANCE_OF_NVJPEG) if by_gpu else rounding


def _backbone_of(cache: FeatureCache, config: VerifyConfig) -> Backbone:
    """The model of the cache. Raises UsageError when its weights differ, or what else decides its features."""
    name = encoder_name(cache, config)
    device = choose_device(config.device)
    # For float16 of a GPU, a CPU computes in float32, which is close.
    precision = {"float32": "fp32", "bfloat16": "bf16"}.get(cache.inputs["precision"], "auto")
    if cache.imported:
        return load_backbone(name, device=device, precision=precision, download_root=config.download_root)
    return load_matching(
        name,
        inputs=cache.inputs,
        cache=cache.path,
        model=cache.about["model"],
        device=device,
        precision=precision,
        download_root=config.download_root,
    )


def _image_encoder(cache: FeatureCache, backbone: Backbone, *, config: VerifyConfig) -> Callable[[np.ndarray], _Again]:
    root = config.root or Path(cache.about["root"])
    if not root.is_dir():
        raise CacheError(f"the images of {cache.path} are not in {root}; name their folder with --root FOLDER.")
    reader = ImageReader(
        files=cache.image_files,
        root=root,
        crop=crop_of(backbone, padded=cache.inputs.get("pad_images", False)),
        background=cache.inputs["background"],
        side=backbone.image_side,
        fast=cache.inputs["decode"] == FAST_DECODERS["cpu"],
    )

    def encode(rows: np.ndarray) -> _Again:
        pixels, problems, *_ = reader.read(rows)
        if "image" not in cache.taps:
            return _Again(_numbers(backbone.encode_image(pixels)), list(problems))
        features, tokens = _split(backbone, "image", backbone.encode_image(pixels, tokens=True))
        return _Again(features, list(problems), tokens, np.full(len(tokens), tokens.shape[1]))

    return encode


def _text_encoder(cache: FeatureCache, backbone: Backbone) -> Callable[[np.ndarray], _Again]:
    prompt, cleaning = cache.inputs["prompt"], cache.inputs["caption_clean"]

    def encode(rows: np.ndarray) -> _Again:
        texts = prompted([cache.captions[row] for row in rows], prompt=prompt, cleaning=cleaning)
        ids, _ = backbone.tokenize(texts)
        if "text" not in cache.taps:
            return _Again(_numbers(backbone.encode_text(backbone.pad(ids))), [])
        features, tokens = _split(backbone, "text", backbone.encode_text(backbone.pad(ids), tokens=True))
        return _Again(features, [], tokens, np.array([end_of(of_text) for of_text in ids]))

    return encode


def _split(backbone: TokenBackbone, side: str, encoded: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(B, D) features and (B, L, W) tokens of what was encoded together."""
    values, width = _numbers(encoded), backbone.widths[side]
    return values[:, :width], values[:, width:].reshape(len(values), -1, backbone.last_blocks[side].width)


def _numbers(encoded: torch.Tensor) -> np.ndarray:
    return encoded.float().cpu().numpy()
