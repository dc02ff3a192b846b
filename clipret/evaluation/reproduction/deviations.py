"""Common causes of differences from published results, as far as the cache and the run show them."""

from dataclasses import dataclass

import numpy as np

from clipret.cache import FeatureCache
from clipret.evaluation.reproduction.matching import Match, Recognised, Run, is_openai
from clipret.evaluation.reproduction.published import DIRECTIONS, published_rows

# In percentage points. Causes with a smaller effect are not reported.
_NOTICEABLE = 0.05
# In percentage points, the largest effect of the encoder's rounding.
_BY_ROUNDING = 2.0


@dataclass(frozen=True)
class Figure:
    """A measured and a published result, in percent.

    within  whether their difference is within the tolerance
    """

    direction: str
    metric: str
    ours: float
    published: float
    within: bool

    @property
    def difference(self) -> float:
        """Ours less the published one, in percentage points."""
        return self.ours - self.published


@dataclass(frozen=True)
class Measured:
    """The results of a row, and the cache and run they were measured on; run is None for a zero-shot row."""

    match: Match
    figures: tuple[Figure, ...]
    cache: FeatureCache
    recognised: Recognised
    run: Run | None

    @property
    def passed(self) -> bool:
        """Whether all results are within the tolerance."""
        return all(figure.within for figure in self.figures)

    @property
    def furthest(self) -> float:
        """The largest absolute difference, in percentage points."""
        return max(abs(figure.difference) for figure in self.figures)


def explain(measured: Measured, *, tolerance: float) -> list[str]:
    """Sentences on possible causes of results outside the tolerance; empty when all are within.

    Reports only facts: settings of the cache that differ from the published ones, images and captions that differ from
    the protocol's, a run with other settings, another row that the results fit, and the signs of the differences.
    """
    if measured.passed:
        return []
    reasons = [
        *_of_the_features(measured),
        *_of_the_protocol(measured),
        *_of_the_run(measured),
        *filter(None, [measured.match.row.remark, measured.match.row.contradiction]),
        *_of_other_rows(measured, tolerance=tolerance),
        *_of_the_differences(measured, tolerance=tolerance),
    ]
    return reasons or [
        f"nothing recorded in {measured.cache.path} explains it; clipret verify {measured.cache.path} --sample 20 "
        f"encodes a sample again"
    ]


def _of_the_features(measured: Measured) -> list[str]:
    cache, model = measured.cache, measured.recognised.model
    inputs, reasons = cache.inputs, []
    if measured.recognised.by in ("name", "file"):
        reasons.append(
            f"the weights ({inputs['weights_sha256'][:12]}) are not OpenAI's of {model.name} ({model.sha256[:12]}); "
            f"they were computed with QuickGELU, as OpenAI's are trained, which lowers the figures of weights trained "
            f"with GELU"
        )
    if is_openai(cache) and inputs["preprocessing"] != f"clip {model.side} px":
        reasons.append(
            f"preprocessing is '{inputs['preprocessing']}' where that of {model.name} is clip's own (bicubic, with "
            f"antialiasing, centre crop) to {model.side} px"
        )
    if inputs["decode"] != "exact":
        decoding = cache.about.get("decoding")
        far = f", whose features have cosine {decoding['cosine']['mean']:.4f} to exact ones" if decoding else ""
        reasons.append(f"images were decoded '{inputs['decode']}'{far}; extract with --decode exact")
    if inputs["precision"] != "float32" and measured.furthest <= _BY_ROUNDING:
        reasons.append(f"features were computed in {inputs['precision']}; extract with --precision fp32")
    return reasons


def _of_the_protocol(measured: Measured) -> list[str]:
    protocol, cache = measured.match.protocol, measured.cache
    # Protocols expect raw captions, but here the cache has the prompt and cleaning of the row.
    reasons = [remark for remark in protocol.remarks if not remark.startswith(("prompt ", "caption clean "))]
    if protocol.left_out:
        images = len(protocol.image_rows) + protocol.left_out
        reasons.append(f"{protocol.left_out:,} of {images:,} images have no usable feature and are left out")
    rows, limit = np.concatenate([fold.text_rows for fold in protocol.folds]), cache.about["context_length"]
    truncated = int(np.sum(cache.tokens[rows] > limit))
    most = 100 * truncated / len(rows)
    if most >= _NOTICEABLE:
        reasons.append(
            f"{truncated:,} of {len(rows):,} captions were cut to {limit} tokens: at most {most:.2f} points of t2i"
        )
    return reasons + [f"extraction remarked: {remark}" for remark in cache.about["remarks"]]


def _of_the_run(measured: Measured) -> list[str]:
    run, row = measured.run, measured.match.row
    if run is None:
        return []
    differing = [
        f"{name.replace('_', ' ')} {run.settings.get(name)} (published: {value})"
        for name, value in row.training.items()
        if run.settings.get(name) != value
    ]
    reasons = [f"{run.folder} was trained with {', '.join(differing)}"] if differing else []
    if not measured.match.leakage_checked:
        reasons.append(f"whether {run.folder} was trained on these images was not checked")
    return reasons


def _of_other_rows(measured: Measured, *, tolerance: float) -> list[str]:
    """Another published row that the results fit, if there is one."""
    fits, ours = [], measured.match.row
    for row in published_rows():
        # Among thousands of rows, one on other captions fits by chance.
        if (row.dataset, row.language) != (ours.dataset, ours.language):
            continue
        pairs = [(figure, row.figures[figure.direction].get(figure.metric)) for figure in measured.figures]
        shared = [abs(figure.ours - published) for figure, published in pairs if published is not None]
        # A row with few of the metrics may fit by chance.
        if row is not ours and len(shared) == len(pairs) and max(shared) <= tolerance:
            fits.append((max(shared), row.name))
    if not fits:
        return []
    distance, name = min(fits)
    return [f"all figures are within {distance:.2f} points of another row, {name}: check model, split and head"]


def _of_the_differences(measured: Measured, *, tolerance: float) -> list[str]:
    figures, source, reasons = measured.figures, measured.match.row.source, []
    if source.spread and measured.furthest <= tolerance + source.spread:
        reasons.append(source.remark)
    if measured.run is None and all(figure.difference < 0 for figure in figures):
        reasons.append(
            f"all {len(figures)} figures are lower, as with weights, activation, preprocessing or decoding other than "
            f"CLIP's"
        )
    if all(figure.difference > 0 for figure in figures):
        reasons.append(
            f"all {len(figures)} figures are higher, as with a smaller gallery or a model that was trained on these "
            f"images"
        )
    if {figure.direction for figure in figures if not figure.within} == {DIRECTIONS[0]}:
        reasons.append("only i2t is outside, where the number of captions per image matters; in t2i it hardly does")
    return reasons
