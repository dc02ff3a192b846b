"""The published rows that can be measured with a cache and optionally a run."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipret import runs
from clipret.cache import FeatureCache
from clipret.cache.image_keys import image_keys
from clipret.config import PROTOCOLS
from clipret.errors import DatasetError, UsageError
from clipret.evaluation.inputs import Source
from clipret.evaluation.reproduction.languages import caption_languages, in_languages
from clipret.evaluation.reproduction.published import (
    MEAN,
    ZERO_SHOT,
    PublishedModel,
    PublishedRow,
    published_languages,
    published_models,
    published_rows,
)
from clipret.heads.files import load_trained_on
from clipret.protocols.leakage import check_images
from clipret.protocols.protocol import Protocol, make_protocol


@dataclass(frozen=True)
class Recognised:
    """The published model of a cache.

    by  how it was recognised: weights (their sha256), name (as given to extract), file (name of the checkpoint), or tag
        (the name of another library's model, which identifies its weights)
    """

    model: PublishedModel
    by: str


@dataclass(frozen=True)
class Run:
    """A run whose head is compared with fine-tuned figures; settings are those of its training."""

    folder: Path
    head: Path
    settings: dict


@dataclass(frozen=True)
class Match:
    """A row that can be measured with the cache, and its protocol on the cache.

    leakage_checked  whether the head is known to have seen none of the images; True for zero-shot rows
    """

    row: PublishedRow
    protocol: Protocol
    leakage_checked: bool = True

    @property
    def head(self) -> str:
        """The head of the row: zero-shot or trained."""
        return ZERO_SHOT if self.row.method == ZERO_SHOT else "trained"


@dataclass(frozen=True)
class Unmatched:
    """A row that cannot be measured: why, and the commands that make a cache and a run for it; None if none do."""

    row: PublishedRow
    reason: str
    needs: str | None


def recognise(cache: FeatureCache) -> Recognised | None:
    """The published model of a cache, by its weights, else by the name or path given to extract; None if it has none.

    A checkpoint that was saved again has another sha256, but may have its old name.
    """
    models, name = published_models().values(), cache.about["model"]
    by_weights = {model.sha256: model for model in models if model.sha256}
    if model := by_weights.get(cache.inputs["weights_sha256"]):
        return Recognised(model, "weights")
    if not is_openai(cache):
        by_name = {alias: model for model in models for alias in (model.name, *model.also)}
        return Recognised(by_name[name], "tag") if name in by_name else None
    if name in published_models():
        return Recognised(published_models()[name], "name")
    by_file = {Path(model.file).stem.lower(): model for model in models if model.file}
    model = by_file.get(Path(name).stem.lower())
    return Recognised(model, "file") if model else None


def is_openai(cache: FeatureCache) -> bool:
    """Whether the encoder of a cache is of the family of OpenAI's."""
    return cache.inputs.get("backbone", "openai") == "openai"


def run_of(source: Source) -> Run | None:
    """The run of a head; None without a head. Raises RunError when the head belongs to no run, or is a soup."""
    if source.head is None:
        return None
    folder = source.head.parent
    record = runs.read_config(folder)
    runs.require_training(record, folder)
    return Run(folder, source.head, record["config"])


def match_rows(cache: FeatureCache, *, model: PublishedModel, run: Run | None) -> tuple[list[Match], list[Unmatched]]:
    """The published rows of a model: those that can be measured, and the others.

    A zero-shot row needs a cache of its model, prompt and caption cleaning that holds the images of its protocol. A
    fine-tuned row also needs a run with the row's loss and head that was trained on none of those images.

    Raises RunError when the run's list of images cannot be read.
    """
    protocols = _Protocols(cache)
    rows = [row for row in published_rows() if row.model == model.name]
    results = [_match(row, cache, run=run, protocols=protocols) for row in rows]
    return (
        [result for result in results if isinstance(result, Match)],
        [result for result in results if isinstance(result, Unmatched)],
    )


class _Protocols:
    """The protocols of a cache by name, each made once; for one that the cache does not hold, the reason as text."""

    def __init__(self, cache: FeatureCache):
        self._cache, self._protocols = cache, {}

    def of(self, row: PublishedRow) -> Protocol | str:
        """The protocol of a row, of captions in its language if it has one."""
        protocol = self[row.protocol]
        if row.language is None or isinstance(protocol, str):
            return protocol
        languages = published_languages(row.dataset) if row.language == MEAN else (row.language,)
        return in_languages(protocol, languages, of_captions=self._languages, first=row.first)

    @functools.cached_property
    def _languages(self) -> np.ndarray:
        return caption_languages(self._cache)

    def __getitem__(self, name: str) -> Protocol | str:
        if name not in self._protocols:
            try:
                self._protocols[name] = make_protocol(self._cache, name)
            except (UsageError, DatasetError) as error:
                # The row's own command is shown instead, as it includes the model.
                reason = str(error).removeprefix(f"--protocol {name}").partition("; extract one with:")[0]
                self._protocols[name] = reason.lstrip(": ").rstrip(".")
        return self._protocols[name]


def _match(row: PublishedRow, cache: FeatureCache, *, run: Run | None, protocols: _Protocols) -> Match | Unmatched:
    if reason := _other_cache(row, cache):
        return Unmatched(row, reason, row.needs)
    protocol = protocols.of(row)
    if isinstance(protocol, str):
        return Unmatched(row, protocol, row.needs)
    if row.method == ZERO_SHOT:
        return Match(row, protocol)
    training = row.training_command(cache.path)
    if reason := _other_run(row, run):
        return Unmatched(row, reason, training)
    leakage = check_images(image_keys(cache, protocol.image_rows), load_trained_on(run.head))
    if seen := leakage["trained_on"]:
        reason = f"{seen:,} of its {leakage['images']:,} images were trained on by {run.folder}"
        return Unmatched(row, reason, training)
    return Match(row, protocol, leakage_checked=leakage["checked"])


def _other_cache(row: PublishedRow, cache: FeatureCache) -> str | None:
    """Why the settings of the cache do not fit the row; None if they do."""
    if row.protocol is None or not row.answerable:
        return "; ".join(filter(None, [row.remark, row.contradiction]))
    if row.protocol not in PROTOCOLS:
        return f"clipret has no protocol {row.protocol}"
    for setting in ("prompt", "caption_clean"):
        value, wanted = cache.inputs[setting], getattr(row, setting)
        if value != wanted:
            return f"the cache has {setting.replace('_', ' ')} '{value}', the row '{wanted}'"
    return None


def _other_run(row: PublishedRow, run: Run | None) -> str | None:
    """Why the run does not fit the row; None if it does."""
    if run is None:
        return "it needs a trained head; give one with --head"
    ours, wanted = ([settings.get(name) for name in ("loss", "head")] for settings in (run.settings, row.training))
    if ours == wanted:
        return None
    (loss, head), (row_loss, row_head) = ours, wanted
    return f"{run.folder} is of loss {loss} and head {head}, the row of loss {row_loss} and head {row_head}"
