"""The command of stage 2 that measures: eval."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import METRICS, PROTOCOLS, EvalConfig
from clipret.config.metric_names import RSUM
from clipret.errors import UsageError
from clipret.reporting.curve import curve_tables, without_curve
from clipret.reporting.metrics import metrics_tables

_ELLIPSES = ("...", "…")


def evaluate(
    cache: Annotated[Path | None, typer.Option(help="Features to measure on.", show_default="the run's own")] = None,
    head: Annotated[
        Path | None, typer.Option(help="A run's folder or a head.safetensors.", show_default="the newest run")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Measure CLIP's own projections alone.")] = False,
    wise_ft: Annotated[
        str | None,
        typer.Option(help="Also heads between zero-shot (0) and trained (1): 0.5, or a curve, 0,0.1,...,1."),
    ] = None,
    runs_dir: options.RunsDir = EvalConfig.runs_dir,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"One or more of {', '.join(PROTOCOLS)}; commas between.", show_default="the data set's"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of protocol split or split-equal-texts: train, val, test or restval.", show_default="test"
        ),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Measure also on images that the head was trained on.")
    ] = EvalConfig.allow_leak,
    k: options.K = options.DEFAULT_K,
    metrics: Annotated[
        str,
        typer.Option(
            help=f"What the tables show, of {', '.join((*METRICS, RSUM))}; R is R@K at every K. metrics.json has all."
        ),
    ] = ",".join(EvalConfig.metrics),
    resamples: Annotated[
        int, typer.Option(help="Sign flips over images that the gain's 95 % intervals are made from; 0: no intervals.")
    ] = EvalConfig.resamples,
    per_query: Annotated[
        Path | None,
        typer.Option(help="Also write every query's ranks and best items: FILE.parquet or FILE.csv.", metavar="FILE"),
    ] = None,
    top: Annotated[int, typer.Option(help="Best items of a query that --per-query has.")] = EvalConfig.top,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the metrics.", show_default="metrics.json of the run")
    ] = None,
    block: Annotated[int, typer.Option(help="Images scored at once: memory, not results.")] = EvalConfig.block,
    precision: Annotated[
        str, typer.Option(help="fp32, or tf32 or bf16: embeddings are rounded to that first.")
    ] = EvalConfig.precision,
    device: options.Device = EvalConfig.device,
    seed: options.seed("Decides the sign flips.") = EvalConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: measure R@K, mAP@K, MRR and others, zero-shot beside trained, both directions, with intervals.

    \b
    clipret eval
    clipret eval --head runs/0001-margin-linear --split val --json
    clipret eval --zero-shot --cache data/coco.h5
    clipret eval --protocol coco-karpathy-5k,coco-karpathy-1k
    clipret eval --wise-ft 0,0.1,...,1 --split val
    clipret eval --metrics R@1,nDCG@10,mAP@R --per-query ranks.parquet
    """
    protocols = options.words(protocol)
    given = {**locals(), "k": options.whole_numbers(k), "protocol": protocols, "wise_ft": _alphas(wise_ft)}
    given["metrics"] = options.words(metrics)
    config = config_from(EvalConfig, given)
    from clipret.evaluation.stage import evaluate as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    lines = [f"run {report['run']}, cache {report['cache']['path']}"] if report["run"] else []
    lines += [f"Note: {remark}." for remark in report.get("remarks", ())]
    tables = metrics_tables(without_curve(report), names=config.columns) + curve_tables(report)
    show(report, as_json=as_json, tables=tables, text=None if quiet else "\n".join(lines))


def _alphas(text: str | None) -> tuple[float, ...]:
    """Numbers between commas; FIRST,SECOND,...,LAST are all in steps of the first two."""
    words = [] if text is None else text.split(",")
    try:
        if len(words) == 4 and words[2].strip() in _ELLIPSES:
            first, second, last = (Decimal(words[place]) for place in (0, 1, 3))
            steps = (last - first) / (second - first)
            # Two steps at least, and no more than anybody means.
            if 2 <= steps <= 1000 and steps == steps.to_integral_value():
                return tuple(float(first + step * (second - first)) for step in range(int(steps) + 1))
            raise ValueError
        return tuple(float(Decimal(word)) for word in words)
    except (ArithmeticError, ValueError):
        raise UsageError(
            f"--wise-ft is '{text}'; expected numbers from 0 to 1 separated by commas, such as 0.5, or "
            f"FIRST,SECOND,...,LAST in equal steps, such as 0,0.1,...,1."
        ) from None
