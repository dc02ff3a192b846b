"""The model card of an export: README.md in Hugging Face's form, made of the record and the run's figures."""

import math
from collections.abc import Mapping
from pathlib import Path

from clipret import runs
from clipret.config import TrainConfig, to_dict
from clipret.config.training import in_use
from clipret.exports.checkpoints.card.figures import figure_lines, measurements
from clipret.exports.checkpoints.card.markdown import bullets, code, table
from clipret.exports.checkpoints.card.metadata import metadata, name_of, origin
from clipret.exports.checkpoints.card.preparation import preparation_code, preparation_words
from clipret.exports.targets.target import Target, Way
from clipret.machine.escaping import markdown_text

FILE = "README.md"
FILL_IN = "FILL IN"
# Shown whatever they are; other settings only where they are not the default.
_ALWAYS = ("loss", "head", "epochs", "batch_size", "lr")
_COSINES = """
import numpy as np

images, texts = (np.asarray(rows, dtype=np.float32) for rows in (images, texts))
images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
print(images @ texts.T)  # cosines: a row a picture, a column a caption
"""


def read_figures(run: Path | None) -> list[dict] | None:
    """The measurements of a run's metrics.json, a dict a protocol; None: there are none.

    Raises RunError when the file is not what clipret eval writes.
    """
    if run is None or not (run / runs.METRICS).exists():
        return None
    return measurements(runs.read_metrics(run), run=run)


def card_text(record: dict, target: Target, *, figures: list[dict] | None) -> str:
    """The card.

    record   the content of clipret_export.json
    figures  as read_figures returns them
    """
    # Those of a head that was trained further since say nothing of this one.
    stale = bool(figures) and figures[0]["finished"] is False and (record["training"] or {}).get("finished", False)
    shown = None if stale else figures
    parts = [
        _title(record),
        _encoder(record),
        _data(record),
        _training(record),
        _figures(record, shown, stale=stale),
        _use(record, target),
        _verification(record, target),
        _limits(record),
        _licences(record),
        _making(record),
    ]
    lines = [line for part in parts for line in part]
    return f"---\n{metadata(record, target, figures=shown)}---\n\n" + "\n".join(lines).rstrip() + "\n"


def _title(record: dict) -> list[str]:
    head, encoder, data = record["head"], record["encoder"], record["data"]
    loss = _settings(record).get("loss")
    trained = f"trained with the loss {loss} on" if loss else "trained on"
    text = (
        f"{encoder['model']} with a head of kind {head['kind']}, {trained} the features that this encoder has of "
        f"{data['dataset']}, for the retrieval of images by text and of texts by image. The encoder itself was not "
        f"trained: only what turns its features into embeddings was."
    )
    return [f"# {markdown_text(name_of(record))}", "", markdown_text(text), ""]


def _encoder(record: dict) -> list[str]:
    encoder = record["encoder"]
    rows = [
        ["", ""],
        ["model", encoder["model"]],
        ["where its weights come from", origin(encoder["model"])],
        ["sha256 of the weights", encoder["weights_sha256"]],
        ["loaded by", encoder["library"]],
        ["preprocessing", encoder["preprocessing"]],
        ["precision of its features", encoder["precision"]],
    ]
    return ["## Base model", "", *table(rows)]


def _data(record: dict) -> list[str]:
    data = record["data"]
    rows = [["split", "images", "captions"]]
    rows += [[name, f"{counts['images']:,}", f"{counts['captions']:,}"] for name, counts in data["splits"].items()]
    used = (record["training"] or {}).get("train_images")
    text = f"Data set {data['dataset']}; its splits are by: {data['split_rule']}."
    text += f" {used:,} images were trained on." if used else ""
    return ["## Data", "", markdown_text(text), "", *table(rows, numbers=True)]


def _settings(record: dict) -> dict:
    return record["training"]["settings"] if record["training"] else {}


def _training(record: dict) -> list[str]:
    training, head = record["training"], record["head"]
    if training is None:
        return ["## Training", "", "The head came as a file without its run: its settings are not known.", ""]
    settings, defaults = training["settings"], to_dict(TrainConfig(cache=Path()))
    names = [*_ALWAYS, *(name for name in settings if name not in _ALWAYS)]
    rows = [["setting", "value"]]
    rows += [
        [name.replace("_", " "), _words(settings[name])]
        for name in names
        if name in settings and (name in _ALWAYS or (settings[name] != defaults.get(name) and in_use(settings, name)))
    ]
    if "kept_epoch" in training:
        kept = f"{training['kept_epoch']} of {training['epochs']}"
        if training.get("val_rsum") is not None:
            kept += f", by the highest validation rsum, {training['val_rsum']:.3f}"
        rows.append(["kept epoch", kept])
    if head["log_scale"] is not None:
        scale = math.exp(head["log_scale"])
        rows.append(["scale of the loss", f"{scale:.4g} (temperature {1 / scale:.4g})"])
    if head["bias"] is not None:
        rows.append(["bias of the loss", f"{head['bias']:.4g}"])
    note = "" if training["finished"] else "The training is not complete: this is its best head so far. "
    return ["## Training", "", f"{note}Other settings are the defaults of clipret.", "", *table(rows)]


def _words(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _figures(record: dict, figures: list[dict] | None, *, stale: bool) -> list[str]:
    lines = ["## Figures", ""]
    if figures:
        return [*lines, *(line for measured in figures for line in figure_lines(measured))]
    if record["run"] is None:
        return [*lines, "The head came as a file without its run: its figures are not known.", ""]
    why = "It was measured before its training was complete." if stale else "It was not measured yet."
    again = f"{record['commands']['eval']}\n{record['commands']['export']}"
    return [*lines, f"{why} These commands do, once this folder is deleted:", "", *code(again, language="console")]


def _use(record: dict, target: Target) -> list[str]:
    name, way = next(iter(target.ways.items()))
    lines = ["## How to use it", ""]
    if not target.encoder:
        text = (
            f"In this folder, with `features` as the encoder gives them to its projection ({record['head']['widths']}):"
        )
        return [*lines, text, "", *code(_opened(way), language="python")]
    lines += bullets(preparation_words(record["images"], record["captions"]))
    lines += [f"In this folder, with a picture of yours, by {markdown_text(name)}:", ""]
    whole = f"{preparation_code(record['images'], record['captions'])}\n{_opened(way)}\n{_COSINES}"
    lines += code(whole, language="python")
    for other, way in list(target.ways.items())[1:]:
        lines += [f"Or by {markdown_text(other)}, with the same lines before and after:", ""]
        lines += code(_opened(way), language="python")
    return lines


def _opened(way: Way) -> str:
    return way.code.replace("{folder}", ".")


def _verification(record: dict, target: Target) -> list[str]:
    rows = [["opened by", "captions", "images", "largest difference", "by its own preprocessing"]]
    rows += [_verified(way) for way in record["verified"]]
    what = "captions and images of the data set" if target.encoder else "the cached features of captions and images"
    text = (
        f"In a fresh process this folder was opened, and embedded {what}. The difference is the largest of any value "
        f"of two embeddings of norm 1, this folder's and clipret's"
    )
    if target.encoder:
        text += (
            ", of the same pixels. The last column is of the image files as they are, without what is said above to be "
            "done first."
        )
    else:
        # Features are not prepared.
        rows, text = [row[:-1] for row in rows], f"{text}."
    notes = [f"{way['way']}: {way['remark']}." for way in record["verified"] if way["remark"]]
    notes += [f"{remark[:1].upper()}{remark[1:]}." for remark in record["remarks"]]
    if record["images_missing"]:
        notes.append(f"Images were not at hand, or not all of them: {record['images_missing']}.")
    notes += cached_words(record["cached"])
    return ["## Verification", "", text, "", *table(rows), *bullets(notes)]


def cached_words(cached: Mapping) -> list[str]:
    """What rounding in the cache's type comes to, in a sentence; none where nothing was encoded again."""
    sides = {"text": "captions", "image": "images"}
    parts = [f"{value:.1e} ({sides[side]})" for side, value in cached["difference"].items()]
    if not parts:
        return []
    return [
        f"The cache, from which the head was trained, holds {cached['dtype']}: embeddings of its features differ from "
        f"those of this folder by at most {' and '.join(parts)}."
    ]


def preprocessing_words(way: Mapping) -> str:
    """How many images are other images by the library's own preprocessing, and by how much their embeddings differ."""
    if "preprocessing" not in way:
        return "not compared"
    own = way["preprocessing"]
    if not own["differ"]:
        return "the same"
    return f"{own['differ']} of {way['images']} images differ, by at most {own['largest']:.1e}"


def _verified(way: dict) -> list[str]:
    if not way["opened"]:
        return [way["way"], "", "", "not opened: its package was not installed", ""]
    return [
        way["way"],
        str(way["texts"]),
        str(way["images"]),
        f"{way['difference']:.1e}",
        preprocessing_words(way),
    ]


def _limits(record: dict) -> list[str]:
    data = record["data"]["dataset"]
    return [
        "## What it is not for",
        "",
        *bullets(
            [
                f"Images and captions unlike those of {data}: the figures say nothing of them. Measure on your own.",
                "Languages other than those of its captions.",
                "Decisions about people: recognising, watching or judging them. What the encoder learned of the web, "
                "prejudice included, a head does not take away.",
                "Cosines as probabilities. They rank; how high a cosine has to be is for you to find out on your data.",
            ]
        ),
    ]


def _licences(record: dict) -> list[str]:
    rows = [
        ["what", "licence"],
        [f"the encoder's weights, {record['encoder']['model']}", FILL_IN],
        [f"the data set, {record['data']['dataset']}", FILL_IN],
        ["this head", FILL_IN],
    ]
    return [
        "## Licences",
        "",
        "To be filled in before this is published, here and in the metadata above.",
        "",
        *table(rows),
    ]


def _making(record: dict) -> list[str]:
    rows = [["", ""], ["fingerprint of the cache", record["cache"]["fingerprint"]]]
    rows += [["sha256 of the head", record["head"]["sha256"]]]
    if record["data"]["annotation_sha256"]:
        rows.append(["sha256 of the annotations", record["data"]["annotation_sha256"]])
    for when, versions in record["versions"].items():
        if versions:
            rows.append([f"versions, {when}", ", ".join(f"{name} {text}" for name, text in versions.items())])
    commands = "\n".join(record["commands"].values())
    return ["## How it was made", "", *code(commands, language="console"), *table(rows)]
