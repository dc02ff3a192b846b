"""Published retrieval results, as data with their sources: published.json and the files beside it."""

import functools
from dataclasses import dataclass, field

from clipret.config import PROTOCOLS, ExtractConfig, TrainConfig, to_command
from clipret.evaluation.reproduction.published_files import read_published

DIRECTIONS = ("i2t", "t2i")
ZERO_SHOT = "zero-shot"
# Instead of a language: the mean over all languages of a data set.
MEAN = "mean"
_ZERO_SHOT_PROTOCOLS = ("coco-karpathy-5k", "flickr30k-karpathy-1k")


@dataclass(frozen=True)
class PublishedModel:
    """A model with published results.

    name    as for --model
    also    other names that --model takes for the same weights
    sha256  of the weights' file, as in OpenAI's URLs; None: not one of OpenAI's
    file    name of the weights' file there
    side    height and width, in pixels, of its input images
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
    """A source of published results.

    label     short name, for tables
    citation  repository and file, or paper and table
    digits    number of decimals of the results
    spread    difference, in percentage points, to another table of the same models; 0: none is known
    remark    on all its results; may be empty
    """

    label: str
    citation: str
    url: str
    digits: int
    spread: float
    remark: str


@dataclass(frozen=True)
class PublishedRow:
    """The published results of one model by one protocol.

    method         zero-shot, or the loss of a fine-tuned linear head as its source calls it: margin, cross-entropy
    dataset        name of the data set, as for extract; with `split` if it is not the data set's default
    protocol       of config.PROTOCOLS, or one that clipret does not have; None: on random images that cannot be drawn
                   again
    language       of the captions, for a data set with several, or MEAN; None: the data set has one
    first          whether only the first caption of an image in the language is used
    prompt, caption_clean  as for extract
    remark         on this row; may be empty
    figures        {"i2t": {metric: percent}, "t2i": {...}}, metrics by their full names. mAP_hits@K divides by the
                   number of matching items found in the top K
    training       for a fine-tuned row: the settings of TrainConfig that its source states
    answerable     whether it can be compared with features that clipret computes; if not, the remark says why
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
    first: bool = False
    answerable: bool = True

    @property
    def name(self) -> str:
        """Source, model, method, protocol and language; unique for every row."""
        return f"{self.source.label} {self.model} {self.method}, {self.measured_by}"

    @property
    def measured_by(self) -> str:
        """The protocol, with the language if there are several."""
        protocol = self.protocol or f"{self.dataset} at random"
        return f"{protocol} {self.language}" if self.language else protocol

    @property
    def needs(self) -> str | None:
        """The commands that make the cache and train the head; None if the row cannot be measured."""
        if self.protocol not in PROTOCOLS or not self.answerable:
            return None
        extraction = self.extraction()
        extract = to_command("extract", extraction)
        return extract if self.method == ZERO_SHOT else f"{extract}; {self.training_command(extraction.cache)}"

    @property
    def contradiction(self) -> str:
        """A contradiction among the published results themselves; empty if there is none."""
        for direction, metrics in self.figures.items():
            same = {name: metrics[name] for name in ("R@1", "mAP@1", "mAP_hits@1") if name in metrics}
            if len(set(same.values())) > 1:
                named = " and ".join(f"{name} {value}" for name, value in same.items())
                return f"{self.model}: {direction} {named} contradict each other, as at K = 1 they are the same"
        return ""

    def extraction(self) -> ExtractConfig:
        """Settings of a cache for this row."""
        return ExtractConfig(
            dataset=self.dataset,
            split=self.split,
            model=self.model,
            prompt=self.prompt,
            caption_clean=self.caption_clean,
        )

    def training_command(self, cache) -> str:
        """The command that trains this row's head on a cache, as far as the source states the settings."""
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


@functools.cache
def published_languages(dataset: str) -> tuple[str, ...]:
    """The languages of a data set that have published results, in alphabetical order."""
    languages = {row.language for row in published_rows() if row.dataset == dataset} - {None, MEAN}
    return tuple(sorted(languages))


def zero_shot_figures() -> dict[str, dict]:
    """The published zero-shot results of every model, by every name that --model takes for it.

    Returns name -> params and flops (as PublishedModel has them), figures (protocol -> direction -> metric -> percent,
    of raw captions on COCO and Flickr30k) and remark (on them; may be empty).
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
    """A row as a JSON-ready dict."""
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
    """{"rows": all rows as returned by describe_row, "remarks": label of source -> its remark}."""
    rows = published_rows()
    remarks = {row.source.label: row.source.remark for row in rows if row.source.remark}
    return {"rows": [describe_row(row) for row in rows], "remarks": remarks}
