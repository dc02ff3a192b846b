"""Stage 2: runs -> everything that a report on them says, as a dict."""

from dataclasses import replace
from pathlib import Path

from clipret import runs
from clipret.config import EvalConfig, FailuresConfig, ReportConfig
from clipret.evaluation.failures import analyse
from clipret.evaluation.findings.categories import object_categories
from clipret.evaluation.findings.galleries import find_galleries, first_words
from clipret.evaluation.findings.mixing import mixing_curve
from clipret.evaluation.findings.published import published_beside
from clipret.evaluation.findings.ranked import TOP, Ranked
from clipret.evaluation.findings.recall import rank_changes, recall_curves
from clipret.evaluation.findings.similarities import describe_similarities
from clipret.evaluation.inputs import Inputs, Ranking, choose_protocols, open_inputs
from clipret.evaluation.stage import measure
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.protocols.protocol import Protocol
from clipret.retrieval.gallery import rank_folds

# More than are shown, for matching items may be among the best.
_LISTED = 50


def collect(config: ReportConfig, *, on_progress: ProgressCallback = silent) -> list[dict]:
    """Measure runs and look at what they find, one after the other.

    on_progress  called after each step, with phase "runs"

    Each run is measured by one protocol, as eval and failures do it, which writes its metrics.json and failures.json.

    Returns for each run: run; metrics, failures, history, config and result, as in the run's files; recall, as
    recall_curves returns it; changes, direction -> as rank_changes; galleries, direction -> as find_galleries;
    first_words, direction -> as first_words; objects, as object_categories; similarities, as describe_similarities;
    published, as published_beside; mixing, as mixing_curve; root, where the images were. What is about single queries
    is about the first gallery of the protocol.

    Raises RunError for what is no run, and as evaluate and find_failures do.
    """
    found = []
    for place, run in enumerate(config.runs):
        found.append(_of_run(config, run))
        on_progress(Progress("runs", place + 1, len(config.runs)))
    return found


def _of_run(config: ReportConfig, run: Path) -> dict:
    shared = {"head": run, "split": config.split, "allow_leak": config.allow_leak, "device": config.device}
    asked = () if config.protocol is None else (config.protocol,)
    measuring = EvalConfig(protocol=asked, **shared)
    inputs = open_inputs(measuring)
    ranking = _once(inputs)
    metrics = measure(measuring, inputs, ranking=lambda protocol: _without_best(ranking(protocol)))
    failing = FailuresConfig(protocol=config.protocol, queries=_LISTED, **shared)
    failures = analyse(failing, inputs, ranking=ranking, described=metrics["protocol"])
    (protocol,) = choose_protocols(inputs.cache, names=asked, split=config.split)
    ranked = Ranked.of(inputs.cache, protocol, heads=inputs.heads, device=inputs.device, ranking=ranking)
    directions = ("t2i", "i2t")
    return {
        "run": str(run),
        "metrics": metrics,
        "failures": failures,
        "history": runs.read_history(run),
        "config": runs.read_config(run),
        "result": runs.read_result(run),
        "published": published_beside(inputs.cache, protocol=protocol.name),
        "mixing": mixing_curve(inputs, split=protocol.split),
        "root": inputs.cache.about["root"],
        "recall": recall_curves(ranked.of_folds),
        "changes": {direction: rank_changes(ranked, direction) for direction in directions},
        "galleries": {direction: find_galleries(ranked, direction, most=config.queries) for direction in directions},
        "first_words": {direction: first_words(ranked, direction) for direction in directions},
        "objects": object_categories(ranked, root=config.root or Path(inputs.cache.about["root"])),
        "similarities": describe_similarities(ranked),
    }


def _once(inputs: Inputs) -> Ranking:
    """Ranks by one protocol, made the first time that they are asked for."""
    made = {}

    def ranking(protocol: Protocol) -> dict:
        if protocol.name not in made:
            settings = {"heads": inputs.heads, "device": inputs.device, "top": TOP}
            made[protocol.name] = rank_folds(inputs.cache, protocol.folds, **settings)
        return made[protocol.name]

    return ranking


def _without_best(ranks: dict) -> dict:
    """Without the best items, which the ranks beside metrics.json have no place for."""
    return {
        head: {direction: tuple(replace(part, top=None) for part in folds) for direction, folds in directions.items()}
        for head, directions in ranks.items()
    }
