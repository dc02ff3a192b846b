"""Retrieval figures that others have published, as data, each with its source: published.json and what is beside it."""

import functools
from dataclasses import dataclass, field

from clipret.config import PROTOCOLS, ExtractConfig, TrainConfig, to_command
from clipret.evaluation.reproduction.published_files import read_published

DIRECTIONS = ("i2t", "t2i")
ZERO_SHOT = "zero-shot"
# In the place of a language: the mean over all of a data set's.
MEAN = "mean"
_ZERO_SHOT_PROTOCOLS = ("coco-karpathy-5k", "flickr30k-karpathy-1k")


@dataclass(frozen=True)
class PublishedModel:
    """A model that there are figures of.

    name    as --model takes it
    also    other names that --model takes for the same weights
    sha256  of the weights' file, as OpenAI's own addresses have it; None: not one of OpenAI's
    file    the weights' name there
    side    height and width, in pixels, of the images that it takes
    params  millions of parameters; None: not published
    flops   billions of floating-point operations for an image and a caption
    """

    name: str
    also: tuple[str, ...] = ()
    sha256: str | None = None
    file: str | None = None
    side: int | None = None
    params: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Source:
    """Where figures were published.

    label     short, for tables
    citation  repository and file, or paper and table
    digits    decimals that the figures have
    spread    how far, in points, another table of the same models is from this one; 0: none is known
    remark    what to know of all its figures; may be empty
    """

    label: str
    citation: str
    url: str
    digits: int
    spread: float
    remark: str


@dataclass(frozen=True)
class PublishedRow:
    """The figures of one model by one protocol.

    method         zero-shot, or the loss of a fine-tuned linear head as its source calls it: margin, cross-entropy
    dataset        name of the data set, as extract takes it; with `split` where it is not the data set's own
    protocol       of config.PROTOCOLS, or one that clipret has not; None: of images that nobody can draw again
    language       of the captions, in a data set that has several, or MEAN; None: the data set has one
    prompt, caption_clean  of the captions, as extract takes them
    remark         what to know of this row; may be empty
    figures        {"i2t": {metric: percent}, "t2i": {...}}, metrics by their full names. mAP's divisor is in
                   the name: that of mAP_hits@K is the number of matching items found in the top K
    training       of a fine-tuned row: the settings of TrainConfig that its source tells
    answerable     whether features that clipret computes can be compared with it; if not, the remark says why
    """

    source: Source
    model: str
    dataset: str
    protocol: str | None
    figures: dict[str, dict[str, float]]
    split: str | None = None
    method: str = ZERO_SHOT
    prompt: str = "{}"
    caption_clean: str = "none"
    remark: str = ""
    training: dict = field(default_factory=dict)
    language: str | None = None
    answerable: bool = True

    @property
    def name(self) -> str:
        """Source, model, method, protocol and language: another for every row."""
        return f"{self.source.label} {self.model} {self.method}, {self.measured_by}"

    @property
    def measured_by(self) -> str:
        """The protocol, with the language if there are several."""
        protocol = self.protocol or f"{self.dataset} at random"
        return f"{protocol} {self.language}" if self.language else protocol

    @property
    def needs(self) -> str | None:
        """The command that makes the cache, and the one that trains the head; None where no cache would do."""
        if self.protocol not in PROTOCOLS or not self.answerable:
            return None
        extraction = self.extraction()
        extract = to_command("extract", extraction)
        return extract if self.method == ZERO_SHOT else f"{extract}; {self.training_command(extraction.cache)}"

    @property
    def contradiction(self) -> str:
        """What its own figures show to be wrong; empty: nothing."""
        for direction, metrics in self.figures.items():
            same = {name: metrics[name] for name in ("R@1", "mAP@1", "mAP_hits@1") if name in metrics}
            if len(set(same.values())) > 1:
                named = " and ".join(f"{name} {value}" for name, value in same.items())
                return f"{self.model}: {direction} {named} contradict each other, as at K = 1 they are the same"
        return ""

    def extraction(self) -> ExtractConfig:
        """Settings of a cache that answers this row."""
        return ExtractConfig(
            dataset=self.dataset,
            split=self.split,
            model=self.model,
            prompt=self.prompt,
            caption_clean=self.caption_clean,
        )

    def training_command(self, cache) -> str:
        """The command that trains this row's head on a cache, as far as the source tells how."""
        return to_command("train", TrainConfig(cache=cache, **self.training))


@functools.cache
def published_models() -> dict[str, PublishedModel]:
    """Models by name, OpenAI's first."""
    models = read_published()["models"].items()
    return {name: PublishedModel(name=name, **{**about, "also": tuple(about["also"])}) for name, about in models}


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All rows, source by source, and of a source those of one protocol and method together."""
    content = read_published()
    sources = {name: Source(**about) for name, about in content["sources"].items()}
    places = {name: place for place, name in enumerate(sources)}
    groups: dict[tuple, list[PublishedRow]] = {}
    for entry in sorted(content["rows"], key=lambda entry: places[entry["source"]]):
        row = PublishedRow(
            **{name: value for name, value in entry.items() if name not in {"source", "remark", *DIRECTIONS}},
            source=sources[entry["source"]],
            remark=content["remarks"][entry["remark"]] if "remark" in entry else "",
            figures={direction: entry[direction] for direction in DIRECTIONS},
            training=content["trainings"].get(entry.get("method"), {}),
        )
        groups.setdefault((entry["source"], row.dataset, row.protocol, row.method), []).append(row)
    return tuple(row for rows in groups.values() for row in rows)


def zero_shot_figures() -> dict[str, dict]:
    """What is published of the models that --model takes, by every name that it has there.

    Returns name -> params and flops (as PublishedModel has them), figures (protocol -> direction -> metric -> percent,
    of raw captions on COCO and Flickr30k) and remark (what to know of them).
    """
    figures: dict[str, dict] = {name: {} for name in published_models()}
    remarks: dict[str, str] = {}
    for row in published_rows():
        raw = row.method == ZERO_SHOT and row.prompt == "{}" and row.answerable
        if raw and row.protocol in _ZERO_SHOT_PROTOCOLS:
            figures[row.model].setdefault(row.protocol, row.figures)
            remarks.setdefault(row.model, row.remark)
    return {
        alias: {"params": model.params, "flops": model.flops, "figures": figures[name], "remark": remarks.get(name, "")}
        for name, model in published_models().items()
        for alias in (name, *model.also)
    }


def describe_row(row: PublishedRow) -> dict:
    """A row as JSON."""
    return {
        "name": row.name,
        "source": row.source.label,
        "citation": row.source.citation,
        "url": row.source.url,
        "model": row.model,
        "method": row.method,
        "dataset": row.dataset,
        "protocol": row.protocol,
        "language": row.language,
        "prompt": row.prompt,
        "caption_clean": row.caption_clean,
        "remark": row.remark,
        "contradiction": row.contradiction,
        "needs": row.needs,
        "digits": row.source.digits,
        "figures": row.figures,
    }


def list_published() -> dict:
    """{"rows": all of them as describe_row gives them, "remarks": source's label -> what to know of its figures}."""
    rows = published_rows()
    remarks = {row.source.label: row.source.remark for row in rows if row.source.remark}
    return {"rows": [describe_row(row) for row in rows], "remarks": remarks}
