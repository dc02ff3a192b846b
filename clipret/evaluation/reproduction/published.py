"""Retrieval figures of CLIP that others have published, as data, each with its source: published.json."""

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

    sha256  of the weights' file, as OpenAI's own addresses have it
    file    the weights' name there
    side    height and width, in pixels, of the images that it takes
    """

    name: str
    sha256: str
    file: str
    side: int


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
    protocol       of config.PROTOCOLS; None: of images that nobody can draw again
    prompt, caption_clean  of the captions, as extract takes them
    remark         what to know of this row; may be empty
    figures        {"i2t": {metric: percent}, "t2i": {...}}, metrics by their full names. mAP's divisor is in
                   the name: that of mAP_hits@K is the number of matching items found in the top K
    training       of a fine-tuned row: the settings of TrainConfig that its source tells
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
        """Source, model, method and protocol: another for every row."""
        return f"{self.source.label} {self.model} {self.method}, {self.protocol or f'{self.dataset} at random'}"

    @property
    def needs(self) -> str | None:
        """The command that makes the cache, and the one that trains the head; None where no cache would do."""
        if self.protocol is None:
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


def _content() -> dict:
    file = importlib.resources.files("clipret.evaluation.reproduction") / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))
