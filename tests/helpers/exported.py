"""Trained heads over small caches, for exports; and an opening that needs no process of its own."""

import subprocess
import warnings
from pathlib import Path
from traceback import format_exception_only

import numpy as np
import torch
from PIL import Image

from clipret import ExtractConfig, FeatureCache, extract
from clipret.exports.checkpoints import opening
from clipret.heads import load_head_kind
from clipret.heads.adapter import AdapterHead
from clipret.heads.base import Head
from clipret.heads.files import save_head
from clipret.heads.linear import LinearHead
from clipret.retrieval.baseline import baseline_projections

# Width and height of the photographs: upright and on their side, odd, and with a half pixel at the centre crop.
SHAPES = ((97, 61), (40, 83), (120, 75), (75, 100), (64, 64), (71, 50))
CAPTIONS = (
    "a red dog",
    "Two Dogs on a BEACH, at night!",
    "caf\u00e9 & \u201ccurly\u201d quotes",
    "fish &amp; chips",
    "x",
    "a very long day of a very long train that goes on and on through the night",
)


def write_photos(folder: Path) -> Path:
    """A folder of pictures of areas and noise, of several modes, and captions.csv with two captions of each."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, lines = np.random.default_rng(0), ["image,caption,split"]
    for number, (width, height) in enumerate(SHAPES):
        areas = generator.integers(0, 256, (3, 4, 4)).astype(np.uint8)
        pixels = np.kron(areas.transpose(1, 2, 0), np.ones((-(-height // 4), -(-width // 4), 1), np.uint8))
        image = Image.fromarray(pixels[:height, :width])
        image = image.convert("RGBA") if number == 1 else image.convert("L") if number == 2 else image
        if number == 1:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(folder / f"{number}.png")
        for caption in (CAPTIONS[number], f"picture {number}"):
            lines.append(f'{number}.png,"{caption}",{"train" if number % 2 else "test"}')
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def extracted(folder: Path, *, model: str | Path, **settings) -> Path:
    """The cache of the photographs by an encoder, float32."""
    photos, out = write_photos(folder / "photos"), folder / "photos.h5"
    values = {"dataset": str(photos / "captions.csv"), "root": photos, "model": str(model), "out": out}
    extract(ExtractConfig(**values | {"dtype": "float32", "workers": 0, "device": "cpu"} | settings))
    return out


def random_head(cache: Path, *, kind: str = "linear", sides: tuple[str, ...] = ("image", "text"), **settings) -> Head:
    """A head whose every tensor is random, of the sides that learned; the others are the encoder's own."""
    projections, generator = baseline_projections(FeatureCache(cache)), torch.Generator().manual_seed(3)
    tensors = {name: tensor.clone() for name, tensor in LinearHead(projections).tensors.items()}
    width = tensors["text_weight"].shape[1]
    if kind == "adapter":
        for side in sides:
            tensors[f"{side}_down"] = torch.randn(width, 8, generator=generator) * width**-0.5
            tensors[f"{side}_up"] = torch.randn(8, width, generator=generator)
        return AdapterHead(tensors, **{"ratio": 0.6, "relu": True} | settings)
    if kind in ("gated", "mlp"):
        return _inner_head(tensors, kind=kind, sides=sides, generator=generator, **settings)
    for name, tensor in tensors.items():
        if name.partition("_")[0] in sides:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * tensor.shape[0] ** -0.5
    return LinearHead(tensors)


def _inner_head(tensors, *, kind: str, sides: tuple[str, ...], generator: torch.Generator, blocks: int = 2) -> Head:
    """A head with a part of random tensors, 6 wide, in front of the encoder's own projections or beside them."""
    for side in sides:
        width, embedding = tensors[f"{side}_weight"].shape
        if kind == "gated":
            shapes = {"gate": (width, 6), "value": (width, 6), "out": (6, embedding)}
        else:
            parts = {"up": (width, 6), "shift": (6,), "down": (6, width)}
            shapes = {f"{part}_{block}": shape for block in range(blocks) for part, shape in parts.items()}
        for part, shape in shapes.items():
            tensors[f"{side}_{part}"] = torch.randn(shape, generator=generator) * shape[0] ** -0.5
    return load_head_kind(kind)(tensors)


def saved(head: Head, cache: Path, *, name: str = "head.safetensors") -> Path:
    """The head in a file beside the cache, as a training keeps it."""
    path, opened = cache.parent / name, FeatureCache(cache)
    metadata = {"weights_sha256": opened.inputs["weights_sha256"], "model": opened.about["model"]}
    save_head(head, path=path, metadata=metadata, trained_on=np.arange(3, dtype=np.uint64))
    return path


def open_here(monkeypatch) -> list[list[str]]:
    """Have verification open exported folders in this process, which spares seconds; returns the commands."""
    commands = []

    def run(command, **options):
        commands.append(command)
        try:
            with warnings.catch_warnings():
                opening.main(Path(command[-2]), Path(command[-1]))
        except Exception as error:
            return subprocess.CompletedProcess(command, 1, stdout="", stderr="".join(format_exception_only(error)))
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def embedded(cache: Path, head: Path, side: str) -> np.ndarray:
    """(n, E) embeddings of all rows of a cache by a head of clipret's own kinds, in float64 by numpy."""
    from clipret.machine.tensors import open_tensors

    file, opened = open_tensors(head), FeatureCache(cache)
    tensors = {name: tensor.double().numpy() for name, tensor in file.read().items() if name != "trained_on"}
    part = {name.removeprefix(f"{side}_"): values for name, values in tensors.items() if name.startswith(side)}
    features = np.asarray(getattr(opened, f"{side}_features"), dtype=np.float64)
    for block in range(sum(name.startswith("shift_") for name in part)):
        variance = features.var(axis=1, keepdims=True)
        normed = (features - features.mean(axis=1, keepdims=True)) / (variance + 1e-5) ** 0.5
        inner = normed @ part[f"up_{block}"] + part[f"shift_{block}"]
        features = features + (inner / (1 + np.exp(-inner))) @ part[f"down_{block}"]
    rows = features @ part["weight"] + part.get("bias", 0)
    if "gate" in part:
        gate = features @ part["gate"]
        rows += (gate / (1 + np.exp(-gate)) * (features @ part["value"])) @ part["out"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if "down" in part:
        added = np.maximum(rows @ part["down"], 0) @ part["up"]
        added = np.maximum(added, 0) if file.metadata["relu"] == "true" else added
        ratio = float(file.metadata["ratio"])
        rows = ratio * added + (1 - ratio) * rows
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
