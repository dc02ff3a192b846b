"""Published retrieval results of CLIP, as data with their sources: published.json."""

import functools
import importlib.resources
import json
from dataclasses import dataclass, field

from clipret.config import ExtractConfig, TrainConfig, to_command

DIRECTIONS = ("i2t", "t2i")
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class PublishedModel:
    """One of OpenAI's models.

    sha256  of the weights' file, as in OpenAI's URLs
    file    name of the weights' file there
    side    height and width, in pixels, of its input images
    """

    name: str
    sha256: str
    file: str
    side: int


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
    protocol       of config.PROTOCOLS; None: on random images that cannot be drawn again
    prompt, caption_clean  as for extract
    remark         on this row; may be empty
    figures        {"i2t": {metric: percent}, "t2i": {...}}, metrics by their full names. mAP_hits@K divides by the
                   number of matching items found in the top K
    training       for a fine-tuned row: the settings of TrainConfig that its source states
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

    @property
    def name(self) -> str:
        """Source, model, method and protocol; unique for every row."""
        return f"{self.source.label} {self.model} {self.method}, {self.protocol or f'{self.dataset} at random'}"

    @property
    def needs(self) -> str | None:
        """The commands that make the cache and train the head; None if the row cannot be measured."""
        if self.protocol is None:
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
    """OpenAI's models by name."""
    return {name: PublishedModel(name=name, **about) for name, about in _content()["models"].items()}


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All rows, source by source."""
    content = _content()
    sources = {name: Source(**about) for name, about in content["sources"].items()}
    return tuple(
        PublishedRow(
            **{name: value for name, value in entry.items() if name not in {"source", "remark", *DIRECTIONS}},
            source=sources[entry["source"]],
            remark=content["remarks"][entry["remark"]] if "remark" in entry else "",
            figures={direction: entry[direction] for direction in DIRECTIONS},
            training=content["trainings"].get(entry.get("method"), {}),
        )
        for entry in content["rows"]
    )


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


def _content() -> dict:
    file = importlib.resources.files("clipret.evaluation.reproduction") / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))
