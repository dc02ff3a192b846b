"""Stage 2: features.h5, and perhaps a run -> its figures beside the published ones."""

from statistics import fmean

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import UsageError
from clipret.evaluation.reproduction.deviations import Figure, Measured, explain
from clipret.evaluation.reproduction.matching import Match, Recognised, Run, Unmatched, find_run, match_rows, recognise
from clipret.evaluation.reproduction.published import DIRECTIONS, ZERO_SHOT, describe_row, family_of, published_models
from clipret.heads.base import Head
from clipret.heads.files import load_head
from clipret.heads.linear import LinearHead
from clipret.machine.devices import choose_device
from clipret.progress import Progress, ProgressCallback, silent
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import summarise
from clipret.runs import check_place, written

# Published figures are rounded: one that is off by exactly the tolerance passes.
_ROUNDING = 1e-9


def reproduce(config: ReproduceConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Measure every published row that the cache answers, and compare.

    Zero-shot rows are measured with CLIP's own projections, fine-tuned ones with the run's head, each protocol once
    whatever rows are of it. A figure passes when it is at most config.tolerance points from the published one.

    on_progress  called after each protocol, with phase "protocols"

    Returns

        cache      path, fingerprint, model (as it was extracted with), recognised (OpenAI's name of it), recognised_by
                   (weights, name or file), dataset, prompt, caption_clean
        run        the run's folder, or None
        tolerance  in points
        protocols  name -> as metrics.json describes a protocol
        rows       those compared: as published.describe_row gives them, with figures [{direction, metric, ours,
                   published, difference, within}] in percent, passed, and explanations of what is outside
        unmatched  the others: as describe_row gives them, with reason and needs: the commands that make what answers it
        compared, outside  figures in all, and those that did not pass
        passed     whether all did

    It is written to config.out, if there is one.

    Raises UsageError when there is no row that the cache answers, RunError, CacheError or HeadError.
    """
    if config.out:
        check_place("out", config.out, suffixes=(".json",))
    device = choose_device(config.device)
    cache, run = FeatureCache(config.cache), find_run(config.head)
    recognised = _require_model(cache)
    matches, others = match_rows(cache, model=recognised.model, run=run)
    if not matches:
        raise UsageError(_no_row(cache, recognised, others))
    heads = _heads(cache, run, matches=matches)
    figures = _measure(cache, matches, heads=heads, device=device, config=config, on_progress=on_progress)
    rows = [
        _compare(Measured(match, found, cache, recognised, _run_of(match, run)), tolerance=config.tolerance)
        for match, found in zip(matches, figures, strict=True)
    ]
    report = {
        "format": runs.FORMAT,
        "cache": _about(cache, recognised),
        "run": str(run.folder) if run else None,
        "tolerance": config.tolerance,
        "protocols": {match.row.protocol: match.protocol.describe() for match in matches},
        "rows": rows,
        "unmatched": [{**describe_row(each.row), "reason": each.reason, "needs": each.needs} for each in others],
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
            f"no published figure is of {cache.path}: its model '{cache.about['model']}' is none of "
            f"{', '.join(published_models())}; clipret reproduce --list shows all rows and the cache that each needs."
        )
    return recognised


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
        f"{each.row.protocol}" + (f" with prompt '{each.row.prompt}'" if each.row.prompt != "{}" else "")
        for each in others
        if each.row.model == model and each.row.method == ZERO_SHOT and each.row.protocol
    )
    return (
        f"no published figure of {model} is of what {cache.path} holds: data set '{inputs['dataset']}', prompt "
        f"'{inputs['prompt']}', caption clean '{inputs['caption_clean']}'; there are figures by protocol "
        f"{', '.join(wanted)}; clipret reproduce --list shows them and the cache that each needs."
    )


def _run_of(match: Match, run: Run | None) -> Run | None:
    return None if match.row.method == ZERO_SHOT else run


def _heads(cache: FeatureCache, run: Run | None, *, matches: list[Match]) -> dict[bool, Head]:
    """Whether it is CLIP's own -> the head, of the heads that the rows need."""
    heads = {True: LinearHead(cache.projections)}
    if any(_run_of(match, run) for match in matches):
        weights = cache.inputs["weights_sha256"]
        heads[False] = load_head(run.head, projections=cache.projections, weights_sha256=weights)
    return heads


def _measure(
    cache: FeatureCache,
    matches: list[Match],
    *,
    heads: dict[bool, Head],
    device: str,
    config: ReproduceConfig,
    on_progress: ProgressCallback,
) -> list[tuple[Figure, ...]]:
    """The figures of every match, in their order."""
    measured, names = {}, dict.fromkeys(match.row.protocol for match in matches)
    for done, name in enumerate(names, start=1):
        of_it = [match for match in matches if match.row.protocol == name]
        galleries = [Gallery.read(cache, fold) for fold in of_it[0].protocol.folds]
        for own in {match.row.method == ZERO_SHOT for match in of_it}:
            head = heads[own].to(device)
            ranks = [gallery.rank(head, device=device, block=config.block) for gallery in galleries]
            measured[name, own] = _summarise(ranks, matches=of_it)
        on_progress(Progress("protocols", done, len(names)))
    return [
        _figures(match, measured[match.row.protocol, match.row.method == ZERO_SHOT], tolerance=config.tolerance)
        for match in matches
    ]


def _summarise(ranks: list[dict], *, matches: list[Match]) -> dict[str, dict[str, float]]:
    """Direction -> metric, the mean over the galleries, of all metrics that these rows have."""
    named = [family_of(metric) for match in matches for metrics in match.row.figures.values() for metric in metrics]
    families = tuple(dict.fromkeys(family for family, _ in named))
    cuts = tuple(sorted({cut for _, cut in named if cut}))
    results = {}
    for direction in DIRECTIONS:
        found = [summarise(each[direction], k=cuts, families=families) for each in ranks]
        results[direction] = {name: fmean(metrics[name] for metrics in found) for name in found[0]}
    return results


def _figures(match: Match, measured: dict[str, dict[str, float]], *, tolerance: float) -> tuple[Figure, ...]:
    figures = []
    for direction, metrics in match.row.figures.items():
        for metric, published in metrics.items():
            ours = 100 * measured[direction][metric]
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
