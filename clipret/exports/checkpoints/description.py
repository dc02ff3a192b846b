"""What an export is of: the content of clipret_export.json, of which the model card is made.

The folder is to be uploaded, so no path in it says where things are on this machine: of absolute paths only the last
part is kept.
"""

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipret import runs
from clipret.annotations.counting import count_splits
from clipret.cache import FeatureCache
from clipret.config import ExportConfig, TrainConfig, to_command
from clipret.config.commands import command_of
from clipret.config.training import PLACES
from clipret.exports.checkpoints.source import Opened
from clipret.machine.escaping import without_folders
from clipret.retrieval.ranks_file import head_digest

FORMAT = 1
_RESULTS = ("kept_epoch", "epochs", "steps", "train_images", "val_rsum")
_RESULTS_OF_SOUP = ("train_images", "val_rsum")


def describe(config: ExportConfig, opened: Opened, *, figures: list[dict] | None) -> dict:
    """The record of an export, before anything is written or verified.

    figures  of the run, as card.text.read_figures returns them

    Returns format, to, run (its name, or None), head, encoder, cache, data, images and captions (how the encoder is to
    be given them), training (None without a run), commands and versions. Raises RunError.
    """
    cache, places, head = opened.cache, opened.places, opened.head
    return {
        "format": FORMAT,
        "to": config.to,
        "run": runs.named(places.run).name if places.run else None,
        "head": {
            "file": places.head.name,
            "sha256": head_digest(places.head),
            "kind": head.kind,
            "widths": head.widths,
            "log_scale": opened.source.log_scale,
            "bias": opened.source.bias,
        },
        "encoder": {
            "model": _model(cache.about["model"]),
            "library": cache.about["library"],
            "weights_sha256": cache.inputs["weights_sha256"],
            "preprocessing": cache.inputs["preprocessing"],
            "precision": cache.inputs["precision"],
        },
        "cache": {"file": cache.path.name, "fingerprint": cache.fingerprint, "dtype": cache.dtype.name},
        "data": _data(cache),
        "images": {"background": cache.inputs["background"], "padding": _padding(opened)},
        "captions": {"prompt": cache.inputs["prompt"], "cleaning": cache.inputs["caption_clean"]},
        "training": _training(opened),
        "commands": _commands(config, opened, figures=figures),
        "versions": _versions(opened),
    }


def _model(name: str) -> str:
    """The encoder's name; of a folder or a file on this machine, only its last part."""
    family, colon, place = name.partition(":")
    if colon and Path(place).exists():
        return f"{family}:{Path(place).name}"
    return without_folders(name)


def _data(cache: FeatureCache) -> dict:
    return {
        "dataset": without_folders(cache.inputs["dataset"]),
        "splits": count_splits(cache.image_splits, cache.caption_images),
        "split_rule": cache.about["split_rule"],
        "annotation_sha256": cache.inputs.get("annotation_sha256"),
    }


def _padding(opened: Opened) -> list[int] | None:
    """The colour that images are padded with to squares; None: they are not."""
    return list(opened.encoder.backbone.mean_colour) if opened.encoder and opened.encoder.padded else None


def _training(opened: Opened) -> dict | None:
    run = opened.places.run
    if run is None:
        return None
    record = runs.read_config(run)
    settings, result = record["config"], runs.read_result(run) or {}
    if soup := record.get("soup"):
        settings = {name: value for name, value in settings.items() if name not in (*soup["differing"], "seed")}
        settings["soup"] = f"average of {len(soup['runs'])} heads of a sweep: {', '.join(soup['runs'])}"
    return {
        "settings": {name: _shown(value) for name, value in settings.items() if name not in PLACES},
        "finished": bool(result),
        **{name: result[name] for name in (_RESULTS_OF_SOUP if soup else _RESULTS) if name in result},
    }


def _shown(value: Any) -> Any:
    return without_folders(value) if isinstance(value, str) else value


def _commands(config: ExportConfig, opened: Opened, *, figures: list[dict] | None) -> dict[str, str]:
    """What made it, step by step, as far as that is known."""
    run, commands = opened.places.run, {"extract": opened.cache.about["command"]}
    if run:
        record = runs.read_config(run)
        if "soup" not in record:
            commands["train"] = command_of("train", TrainConfig, settings=record["config"])
        commands["eval"] = shlex.join(["clipret", "eval", "--head", str(run), *_protocols(figures or [])])
    commands["export"] = to_command("export", config)
    return {name: _portable(command) for name, command in commands.items()}


def _protocols(figures: list[dict]) -> list[str]:
    """The options of eval that measure these protocols; none for the default."""
    names = dict.fromkeys(measured["protocol"]["name"].partition(":")[0] for measured in figures)
    splits = {measured["protocol"]["split"] for measured in figures}
    if set(names) <= {"split"}:
        return [] if splits <= {"test"} else ["--split", *splits]
    return ["--protocol", ",".join(names)]


def _portable(command: str) -> str:
    try:
        return shlex.join(map(without_folders, shlex.split(command)))
    except ValueError:
        # Of a cache that another program wrote: quotes without their ends.
        return without_folders(command)


def _versions(opened: Opened) -> dict[str, dict[str, str]]:
    """Of what trained and what exported; the library that encoded stands with the encoder."""
    trained = runs.read_config(opened.places.run).get("versions", {}) if opened.places.run else {}
    exported = {name: version(name) for name in ("clipret", "torch", "numpy")}
    return {"training": trained, "export": exported}
