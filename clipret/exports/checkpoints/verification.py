"""An exported folder, opened by its library in a fresh process, against clipret's own embeddings.

Compared are captions of the cache and images of the data set. Images are given twice: already cropped by clipret, so
that every library sees the same pixels, and as they are, which shows what the library's own preprocessing makes of
them. A target that has no encoder is compared by features of the cache.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.backbones.protocol import Backbone
from clipret.cache import FeatureCache
from clipret.errors import ExportError
from clipret.exports import TARGETS
from clipret.exports.checkpoints.source import Opened
from clipret.exports.targets.target import Target, Way, unit
from clipret.heads.base import TOKENS, Head
from clipret.images import reason_of
from clipret.images.files import read_file
from clipret.images.reading import opened
from clipret.retrieval.inputs import Rows, read_rows

_CAPTIONS, _IMAGES = 32, 16
# Of unit embeddings, cached against encoded again: what rounding in the cache's type and in another batch makes.
_CACHED = {"float32": 1e-4, "float16": 1e-2}
_LONGEST = 300


@dataclass
class Sample:
    """Captions and images, with clipret's embeddings of them.

    captions, rows  of the cache
    files           image files, copied
    cropped         the same images of S x S, as clipret's encoder sees them
    expected        text, image -> (n, E), encoded again and through the head
    cached          text, image -> the largest difference of the cached features through the head to `expected`
    missing         why the first image that could not be read is not among them
    features        text, image -> (n, D) of the cache, which are embedded instead of files; None: files are
    backbone        the encoder; None: features are embedded
    """

    captions: list[str]
    files: list[Path]
    cropped: list[Path]
    expected: dict[str, np.ndarray]
    cached: dict[str, float]
    missing: str | None = None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    features: dict[str, np.ndarray] | None = None
    backbone: Backbone | None = None


def take_sample(opened_source: Opened, *, root: Path | None, scratch: Path) -> Sample:
    """Captions spread over the cache, and images where their files are at hand.

    Raises ExportError when the encoder no longer gives the cached features.
    """
    cache, encoder, head = opened_source.cache, opened_source.encoder, opened_source.head
    captioned = np.flatnonzero(cache.usable[cache.caption_images])
    rows = {"text": _spread(captioned, _CAPTIONS), "image": _spread(np.flatnonzero(cache.usable), _IMAGES)}
    if encoder is None:
        return _sample_features(cache, head, rows=rows)
    captions = encoder.texts([cache.captions[row] for row in rows["text"]])
    files, cropped, readable, missing = [], [], [], None
    for place, row in enumerate(rows["image"].tolist()):
        name = cache.image_files[row]
        try:
            content = read_file(name, root=root or Path(cache.about["root"]))
            with opened(content) as image:
                pixels = encoder.crop(image)
        except Exception as error:
            # PIL's plug-ins raise nearly anything at a broken file.
            missing = missing or f"{name}: {reason_of(error)}"
            continue
        files.append(scratch / f"{place}{Path(name).suffix}")
        files[-1].write_bytes(content)
        cropped.append(scratch / f"{place}-cropped.png")
        pixels.save(cropped[-1])
        readable.append(place)
    rows["image"] = rows["image"][readable]
    features = {"text": encoder.text_features([cache.captions[row] for row in rows["text"]])}
    if cropped:
        features["image"] = encoder.pixel_features([Image.open(path) for path in cropped])
    expected = _through(opened_source.source.head, features)
    inputs = head.inputs
    stored = _through(head, {side: read_rows(cache, side, rows[side], kind=inputs[side]) for side in expected})
    cached = {side: _difference(stored[side], expected[side]) for side in expected}
    _require_cached(cache, cached, inputs=inputs)
    return Sample(captions, files, cropped, expected, cached, missing, rows, backbone=encoder.backbone)


def _sample_features(cache: FeatureCache, head: Head, *, rows: dict[str, np.ndarray]) -> Sample:
    """For a target that has no encoder."""
    features = {side: np.asarray(cache.read(side, rows[side]), dtype=np.float32) for side in rows}
    expected = _through(head, {side: torch.from_numpy(values) for side, values in features.items()})
    return Sample([], [], [], expected, cached={}, rows=rows, features=features)


@torch.no_grad()
def _through(head: Head, features: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    functions = {"text": head.embed_texts, "image": head.embed_images}
    return {side: unit(functions[side](values.float())) for side, values in features.items()}


def verify(target: Target, name: str, *, folder: Path, sample: Sample, scratch: Path) -> list[dict]:
    """Open the folder in each of the target's ways, and compare.

    Returns a dict for each way: way, opened (False where its package is not installed), texts and images (how many were
    compared), difference (the largest of any value of two unit embeddings, pixels as clipret's), tolerance;
    preprocessing: differ (how many images differ beyond it by the library's own preprocessing) and largest; reading:
    the same of the captions that the library reads otherwise, where there are any.

    Raises ExportError when a way cannot open the folder, or gives other embeddings.
    """
    return [
        _verify(way, label, name, folder=folder, sample=sample, scratch=scratch) for label, way in target.ways.items()
    ]


def _verify(way: Way, label: str, name: str, *, folder: Path, sample: Sample, scratch: Path) -> dict:
    result = {"way": label, "remark": way.remark, "tolerance": way.tolerance, "opened": True}
    if importlib.util.find_spec(way.needs) is None:
        return result | {"opened": False}
    texts = {
        "prepared": [way.clean(caption, sample.backbone) for caption in sample.captions],
        "original": sample.captions,
    }
    images = {"prepared": sample.cropped, "original": sample.files}
    arrays = ask(name, label, folder=folder, texts=texts, images=images, features=sample.features, scratch=scratch)
    embedded = {side: arrays[f"{side}/prepared"] for side in sample.expected}
    difference = max(_difference(embedded[side], values) for side, values in sample.expected.items())
    if not difference <= way.tolerance:
        raise ExportError(
            f"{label} gives other embeddings than clipret: they differ by {difference:.1e}, expected at most "
            f"{way.tolerance:.0e}. Nothing was written. Please report this, with the versions of both."
        )
    counts = {side: len(embedded.get(side, ())) for side in ("text", "image")}
    result |= {"texts": counts["text"], "images": counts["image"], "difference": difference}
    for side, what in (("text", "reading"), ("image", "preprocessing")):
        if len(own := arrays.get(f"{side}/original", ())):
            result[what] = _apart(own, sample.expected[side], tolerance=way.tolerance)
    return result


def _apart(one: np.ndarray, other: np.ndarray, *, tolerance: float) -> dict:
    """How many rows differ, and the largest difference."""
    differences = np.abs(one - other).max(axis=1)
    return {"differ": int((differences > tolerance).sum()), "largest": float(differences.max())}


def ask(
    target: str,
    way: str,
    *,
    folder: Path,
    texts: Mapping[str, list[str]],
    images: Mapping[str, list[Path]],
    scratch: Path,
    features: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What `opening` returns in a fresh process, in which no hub is asked. Raises ExportError."""
    request, result = scratch / "request.json", scratch / "result.npz"
    files = {name: [str(path.absolute()) for path in paths] for name, paths in images.items()}
    content = {
        "module": TARGETS[target].module,
        "way": way,
        "folder": str(folder.absolute()),
        "texts": texts,
        "images": files,
        "features": str(scratch / "features.npz") if features else None,
    }
    if features:
        np.savez(scratch / "features.npz", **features)
    request.write_text(json.dumps(content), encoding="utf-8")
    environment = os.environ | {
        # As here: the current folder may hold files that are called as packages are.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path and Path(path).is_absolute()),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "clipret.exports.checkpoints.opening", str(request), str(result)]
    process = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, errors="replace")
    if process.returncode < 0:
        raise ExportError(
            f"{way} cannot open what was written: its process was ended by signal {-process.returncode}, as the system "
            f"does where memory runs out. Nothing was written."
        )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise ExportError(f"{way} cannot open what was written: {lines[-1][:_LONGEST]}. Nothing was written.")
    with np.load(result, allow_pickle=False) as arrays:
        return dict(arrays)


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max(initial=0.0))


def _require_cached(cache: FeatureCache, differences: Mapping[str, float], *, inputs: Mapping[str, str]) -> None:
    """inputs: image, text -> what the head reads of the cache."""
    for side, difference in differences.items():
        stored = cache.taps[side].dtype if inputs[side] == TOKENS else cache.dtype.name
        # bfloat16 and int8 are the coarsest.
        tolerance = max(_CACHED.get(name, 1e-1) for name in (cache.inputs["precision"], stored))
        if not difference <= tolerance:
            raise ExportError(
                f"the {side} features of {cache.path} are not what its encoder gives for these files and captions: "
                f"through the head they differ by {difference:.1e}; look at them with: clipret verify {cache.path} "
                f"--sample 100"
            )
