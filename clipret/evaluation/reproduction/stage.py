"""Stage 2: features.h5 and optionally a run -> results compared with published ones."""

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import UsageError
from clipret.evaluation.inputs import Inputs, open_inputs
from clipret.evaluation.reproduction.deviations import Figure, Measured, explain
from clipret.evaluation.reproduction.matching import Match, Recognised, Unmatched, match_rows, recognise, run_of
from clipret.evaluation.reproduction.published import (
    DIRECTIONS,
    ZERO_SHOT,
    describe_row,
    published_models,
    published_rows,
)
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.metrics import cut_of, family_of, scale_of
from clipret.retrieval.gallery import rank_folds
from clipret.retrieval.metrics import summarise_folds
from clipret.retrieval.ranks import Ranks
from clipret.runs import check_place, written

# Published results are rounded, so a difference of exactly the tolerance passes.
_ROUNDING = 1e-9


def reproduce(config: ReproduceConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Measure every published row that the cache supports, and compare the results.

    Zero-shot rows are measured with the encoder's own projections, fine-tuned ones with the run's head. Each protocol
    is ranked once. A result passes if it is within config.tolerance percentage points of the published one.

    on_progress  called after each protocol, with phase "protocols"

    Returns

        cache      path, fingerprint, model (as given to extract), recognised (the name that its rows have),
                   recognised_by (weights, name, file or tag), dataset, prompt, caption_clean
        run        the run's folder, or None
        tolerance  in percentage points
        protocols  name -> protocol as in metrics.json
        rows       the compared rows: as returned by published.describe_row, with figures [{direction, metric, ours,
                   published, difference, within}] in percent, passed, and explanations of results outside
        unmatched  the other rows of the model: as returned by describe_row, with reason and needs (the commands for
                   measuring it)
        elsewhere  number of rows and models: those of other models
        compared, outside  number of results, and of those that did not pass
        passed     whether all passed

    The result is written to config.out, if given.

    Raises UsageError when no row can be measured, RunError, CacheError or HeadError.
    """
    if config.out:
        check_place("out", config.out, suffixes=(".json",))
    inputs = open_inputs(config)
    cache, run = inputs.cache, run_of(inputs.source)
    recognised = _require_model(cache)
    matches, others = match_rows(cache, model=recognised.model, run=run)
    if not matches:
        raise UsageError(_no_row(cache, recognised, others))
    figures = _measure(inputs, matches, config=config, on_progress=on_progress)
    rows = [
        _compare(
            Measured(match, of_match, cache, recognised, None if match.head == ZERO_SHOT else run),
            tolerance=config.tolerance,
        )
        for match, of_match in zip(matches, figures, strict=True)
    ]
    report = {
        "format": runs.FORMAT,
        "cache": _about(cache, recognised),
        "run": str(run.folder) if run else None,
        "tolerance": config.tolerance,
        "protocols": {match.row.measured_by: match.protocol.describe() for match in matches},
        "rows": rows,
        "unmatched": [{**describe_row(other.row), "reason": other.reason, "needs": other.needs} for other in others],
        "elsewhere": _elsewhere(recognised),
        "compared": sum(len(row["figures"]) for row in rows),
        "outside": sum(not figure["within"] for row in rows for figure in row["figures"]),
        "passed": all(row["passed"] for row in rows),
    }
    if config.out:
        with written(config.out):
            runs.write_json(config.out, report)
    return report


def _require_model(cache: FeatureCache) -> Recognised:
    recognised = recognise(cache)
    if recognised is None:
        raise UsageError(
            f"no published figure is of {cache.path}: its model '{cache.about['model']}' is none of the "
            f"{len(published_models())} that have some, which clipret models shows; clipret reproduce --list shows all "
            f"rows and the cache that each needs."
        )
    return recognised


def _elsewhere(recognised: Recognised) -> dict[str, int]:
    others = [row.model for row in published_rows() if row.model != recognised.model.name]
    return {"rows": len(others), "models": len(set(others))}


def _about(cache: FeatureCache, recognised: Recognised) -> dict:
    return {
        "path": str(cache.path),
        "fingerprint": cache.fingerprint,
        "model": cache.about["model"],
        "recognised": recognised.model.name,
        "recognised_by": recognised.by,
        **{name: cache.inputs[name] for name in ("dataset", "prompt", "caption_clean")},
    }


def _no_row(cache: FeatureCache, recognised: Recognised, others: list[Unmatched]) -> str:
    inputs, model = cache.inputs, recognised.model.name
    wanted = dict.fromkeys(
        f"{other.row.protocol}" + (f" with prompt '{other.row.prompt}'" if other.row.prompt != "{}" else "")
        for other in others
        if other.needs and other.row.method == ZERO_SHOT
    )
    return (
        f"no published figure of {model} matches {cache.path}: data set '{inputs['dataset']}', prompt "
        f"'{inputs['prompt']}', caption clean '{inputs['caption_clean']}'; there are figures by protocol "
        f"{', '.join(wanted)}; clipret reproduce --list shows them and the cache that each needs."
    )


def _measure(
    inputs: Inputs, matches: list[Match], *, config: ReproduceConfig, on_progress: ProgressCallback
) -> list[tuple[Figure, ...]]:
    """The results of every match, in order. Each protocol ranks only the heads that its rows need."""
    measured, names = {}, dict.fromkeys(match.row.measured_by for match in matches)
    for done, name in enumerate(names, start=1):
        matched = [match for match in matches if match.row.measured_by == name]
        heads = {match.head: inputs.heads[match.head] for match in matched}
        folds = matched[0].protocol.folds
        ranks = rank_folds(inputs.cache, folds, heads=heads, device=inputs.device, block=config.block)
        for head, directions in ranks.items():
            measured[name, head] = _summarise(directions, matches=matched)
        on_progress(Progress("protocols", done, len(names)))
    return [
        _figures(match, measured[match.row.measured_by, match.head], tolerance=config.tolerance) for match in matches
    ]


def _summarise(ranks: dict[str, tuple[Ranks, ...]], *, matches: list[Match]) -> dict[str, dict[str, float]]:
    """Direction -> metric -> mean over the galleries, for all metrics that these rows have."""
    names = [metric for match in matches for metrics in match.row.figures.values() for metric in metrics]
    families = tuple(dict.fromkeys(map(family_of, names)))
    cuts = tuple(sorted({cut_of(name) for name in names} - {None}))
    return {direction: summarise_folds(ranks[direction], k=cuts, families=families) for direction in DIRECTIONS}


def _figures(match: Match, measured: dict[str, dict[str, float]], *, tolerance: float) -> tuple[Figure, ...]:
    figures = []
    for direction, metrics in match.row.figures.items():
        for metric, published in metrics.items():
            ours = scale_of(metric) * measured[direction][metric]
            within = abs(ours - published) <= tolerance + _ROUNDING
            figures.append(Figure(direction, metric, ours, published, within))
    return tuple(figures)


def _compare(measured: Measured, *, tolerance: float) -> dict:
    figures = [
        {
            "direction": figure.direction,
            "metric": figure.metric,
            "ours": figure.ours,
            "published": figure.published,
            "difference": figure.difference,
            "within": figure.within,
        }
        for figure in measured.figures
    ]
    explanations = explain(measured, tolerance=tolerance)
    described = describe_row(measured.match.row)
    return {**described, "figures": figures, "passed": measured.passed, "explanations": explanations}
