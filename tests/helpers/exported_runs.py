"""Runs to export, and records of exports that took no encoder."""

from pathlib import Path

import numpy as np
from PIL import Image

from clipret import EvalConfig, ExtractConfig, TrainConfig, evaluate, extract, train
from clipret.config import ExportConfig
from clipret.exports.checkpoints.card.text import read_figures
from clipret.exports.checkpoints.description import describe
from clipret.exports.checkpoints.source import open_source
from clipret.exports.targets.target import Target, Way

WAY = Way(
    embed=None,
    code='import made\n\nimages, texts = made.load("{folder}/made.bin").embed(pictures, captions)',
    needs="numpy",
    remark="made rounds to `halves`",
)
HEAD_ONLY = Target(refusal=lambda source: None, write=lambda source, folder: None, ways={"made": WAY}, encoder=False)
WHOLE = Target(refusal=lambda source: None, write=lambda source, folder: None, ways={"made": WAY}, library="made")


def record_of(run: Path, **changes) -> dict:
    """The record of an export of a run, as if it had been verified."""
    config = ExportConfig(run=run, to="clip", out=run.parent / "exported", **changes)
    opened = open_source(config, encoder=False)
    record = describe(config, opened, figures=read_figures(opened.places.run))
    return record | {
        "verified": [
            {
                "way": "made",
                "remark": WAY.remark,
                "tolerance": 1e-5,
                "opened": True,
                "texts": 32,
                "images": 16,
                "difference": 4.66e-5,
                "preprocessing": {"differ": 3, "largest": 0.39},
            },
            {"way": "other", "remark": "", "tolerance": 1e-5, "opened": False},
        ],
        "cached": {"dtype": "float16", "difference": {"text": 0.00031, "image": 0.00021}},
        "images_missing": None,
        "remarks": ["the bias has no place there"],
        "files": {"made.bin": 57_101_602, "README.md": 7948},
    }


def extracted_run(folder: Path, *, model: str | Path = "tiny-emoji") -> Path:
    """A run below a folder, on transparent pictures and captions in a prompt: extracted, trained and measured."""
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, size=(70, 80, 4), dtype=np.uint8)
        Image.fromarray(pixels, mode="RGBA").save(folder / f"photos/{number}.png")
        (folder / f"photos/{number}.txt").write_text(f"Thing number {number}\n")
    settings = {
        "model": str(model),
        "workers": 0,
        "prompt": "a drawing of {}",
        "caption_clean": "lower",
        "background": "white",
    }
    extract(ExtractConfig(dataset=str(folder / "photos"), out=folder / "made.h5", **settings))
    learning = {"loss": "sigmoid", "epochs": 2, "keep": "last", "lr": 1e-2}
    run = train(TrainConfig(cache=folder / "made.h5", runs_dir=folder / "runs", **learning))["run"]
    evaluate(EvalConfig(head=run, resamples=0))
    return Path(run)
