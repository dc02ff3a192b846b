"""Records of exports, made of real runs without an encoder."""

from pathlib import Path

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
    opened = open_source(config, HEAD_ONLY)
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
