"""Rereading a cache and encoding a sample of it again: `clipret verify`."""

import time
from pathlib import Path

import numpy as np

from clipret.backbones import load_backbone
from clipret.backbones.matching import load_matching
from clipret.backbones.protocol import Backbone
from clipret.cache import DONE, FeatureCache, check_rows, check_texts
from clipret.config import FAST_DECODERS, VerifyConfig
from clipret.datasets.captions import prompted
from clipret.errors import CacheDamagedError, CacheError
from clipret.extraction.imported import comparable, encoder_name, sampled_sides
from clipret.images import ImageReader
from clipret.images.padding import crop_of
from clipret.machine.devices import choose_device
from clipret.machine.progress import Progress, ProgressCallback, silent

_ENCODED_AT_ONCE = 16
_SHOWN = 10
# What the checks of a sample are called, after images or captions.
_AGAIN = "encoded again"
# Largest difference between a feature encoded again and the cached one, relative to the feature's largest value: from
# rounding in the stored type, and from another order of additions in other kernels or on another device.
_TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# For images that a GPU decoded: here they are decoded exactly.
_TOLERANCE_OF_NVJPEG = 0.2


def verify(config: VerifyConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Reread a cache, finished or not, and report what is damaged. Changes nothing.

    on_progress  called with phase "image rows", "text rows" and, for a sample, "images encoded again"
                 and "captions encoded again"

    Checks the structure, and the state, values and checksum of every row; with config.sample, encodes that many images
    and captions again and compares.

    Returns cache, fingerprint, complete, sound (whether nothing is damaged), verdict (a sentence), seconds, and checks,
    a list of name, rows (checked; None for the structure), faults (sentences) and bad_rows (all of them).

    Raises CacheError or CacheFormatError when the file is not a cache; BackboneError when the model cannot be loaded,
    UsageError when it is not the model of the cache.
    """
    started = time.perf_counter()
    try:
        cache = FeatureCache(config.cache, allow_incomplete=True)
        checks = [_check("structure", None, faults=check_texts(cache))]
    except CacheDamagedError as error:
        # With a damaged structure nothing else can be checked. The path is that of a shard if the cache refers to one.
        where = "" if error.path == config.cache else f"{error.path}: "
        checks = [_check("structure", None, faults=[where + fault for fault in error.faults])]
        return _result(config.cache, checks=checks, command=error.command) | {"seconds": _seconds_since(started)}
    for side, total in (("image", len(cache.image_states)), ("text", len(cache.text_states))):
        bad_rows = check_rows(cache, side, on_progress=on_progress)
        faults = [f"{name}: {_rows_in_words(rows)}" for name, rows in bad_rows.items() if len(rows)]
        bad = sorted({int(row) for rows in bad_rows.values() for row in rows})
        checks.append(_check(f"{side} rows", total, faults=faults, bad_rows=bad))
    if config.sample:
        checks += _sampled(cache, config, on_progress=on_progress)
    result = _result(cache.path, checks=checks, command=cache.about["command"], cache=cache)
    return result | {"seconds": _seconds_since(started)}


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _result(path: Path, *, checks: list[dict], command: str | None, cache: FeatureCache | None = None) -> dict:
    """cache: None if it cannot be opened."""
    faulty = [check["name"] for check in checks if check["faults"]]
    verdict = f"{path} is sound."
    if faulty:
        remedy = f" with: {command}" if command else "."
        verdict = f"{path} is damaged: {', '.join(faulty)}; delete it and extract again{remedy}"
        if cache is not None and cache.imported and all(name.endswith(_AGAIN) for name in faulty):
            # What was imported is there as it was: the same import would give the same.
            verdict = (
                f"{path} holds what was imported, and this is not what the encoder gives for these files and captions: "
                f"{', '.join(faulty)}; look at --model, --root, and the order of the table's rows."
            )
    elif not cache.complete:
        verdict = f"{path} is sound but incomplete; complete it with: {command}"
    return {
        "cache": str(path),
        "fingerprint": cache and cache.fingerprint,
        "complete": cache is not None and cache.complete,
        "sound": not faulty,
        "verdict": verdict,
        "checks": checks,
    }


def _check(name: str, rows: int | None, *, faults: list[str], bad_rows: list[int] | None = None) -> dict:
    return {"name": name, "rows": rows, "faults": faults, "bad_rows": bad_rows or []}


def _rows_in_words(rows: np.ndarray) -> str:
    shown = ", ".join(str(row) for row in rows[:_SHOWN])
    return f"{len(rows):,} rows: {shown}{', ...' if len(rows) > _SHOWN else ''}"


def _sampled(cache: FeatureCache, config: VerifyConfig, *, on_progress: ProgressCallback) -> list[dict]:
    """Encode random finished rows again and compare."""
    sides = sampled_sides(cache)
    backbone = _backbone_of(cache, config)
    generator = np.random.default_rng(config.seed)
    states = {"image": cache.image_states, "text": cache.text_states}
    encode = {
        side: _image_encoder(cache, backbone, config=config) if side == "image" else _text_encoder(cache, backbone)
        for side in sides
    }
    checks = []
    for side in sides:
        what = "images" if side == "image" else "captions"
        done = np.flatnonzero(states[side] == DONE)
        rows = np.sort(generator.choice(done, size=min(config.sample, len(done)), replace=False))
        bad, unreadable, largest = [], [], 0.0
        for start in range(0, len(rows), _ENCODED_AT_ONCE):
            batch = rows[start : start + _ENCODED_AT_ONCE]
            again, failed = encode[side](batch)
            unreadable += [int(batch[place]) for place in failed]
            kept = np.setdiff1d(np.arange(len(batch)), list(failed))
            cached = cache.read(side, batch[kept])
            errors = _errors(*comparable(cache, backbone, side, cached=cached, again=again[kept]))
            bad += batch[kept][~(errors <= _tolerance(cache, side))].tolist()
            largest = max([largest, *errors.tolist()])
            on_progress(Progress(f"{what} {_AGAIN}", start + len(batch), len(rows)))
        faults = []
        if bad:
            faults.append(f"encoded again, they differ by up to {largest:.1e}: {_rows_in_words(np.array(bad))}")
        if unreadable:
            faults.append(f"can no longer be read: {_rows_in_words(np.array(unreadable))}")
        checks.append(_check(f"{what} {_AGAIN}", len(rows), faults=faults, bad_rows=bad))
    return checks


def _errors(cached: np.ndarray, again: np.ndarray) -> np.ndarray:
    """(B,) the largest difference in a row, relative to the largest value of the row encoded again."""
    cached, again = cached.astype(np.float64), again.astype(np.float64)
    return np.abs(cached - again).max(axis=1) / np.maximum(np.abs(again).max(axis=1), 1e-12)


def _tolerance(cache: FeatureCache, side: str) -> float:
    if cache.imported:
        # Nobody knows in which precision they were computed.
        return max(_TOLERANCES.values())
    rounding = max(_TOLERANCES[cache.inputs[name]] for name in ("precision", "dtype"))
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


def _image_encoder(cache: FeatureCache, backbone: Backbone, *, config: VerifyConfig):
    """A function: rows -> features (B, D) float32, and the positions of images that cannot be read."""
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

    def encode(rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        pixels, problems, *_ = reader.read(rows)
        return backbone.encode_image(pixels).float().cpu().numpy(), list(problems)

    return encode


def _text_encoder(cache: FeatureCache, backbone: Backbone):
    prompt, cleaning = cache.inputs["prompt"], cache.inputs["caption_clean"]

    def encode(rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        texts = prompted([cache.captions[row] for row in rows], prompt=prompt, cleaning=cleaning)
        tokens, _ = backbone.tokenize(texts)
        return backbone.encode_text(backbone.pad(tokens)).float().cpu().numpy(), []

    return encode
