"""The command of stage 2 that looks at what went wrong: failures."""

from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import PROTOCOLS
from clipret.config.failures import FailuresConfig
from clipret.reporting import SECTIONS
from clipret.reporting.failures import failures_summary


def failures(
    cache: Annotated[Path | None, typer.Option(help="Features to look at.", show_default="the run's own")] = None,
    head: Annotated[
        Path | None, typer.Option(help="A run's folder or a head.safetensors.", show_default="the newest run")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Look at CLIP's own projections alone.")] = False,
    runs_dir: options.RunsDir = FailuresConfig.runs_dir,
    protocol: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.", show_default="the data set's")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of protocol split or split-equal-texts: train, val, test or restval.", show_default="test"
        ),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Look also at images that the head was trained on.")
    ] = FailuresConfig.allow_leak,
    queries: Annotated[int, typer.Option(help="Queries, and hubs, that each list has at most.")] = (
        FailuresConfig.queries
    ),
    top: Annotated[int, typer.Option(help="A hub is an item in the top so many of many queries.")] = FailuresConfig.top,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the result.", show_default="failures.json of the run")
    ] = None,
    block: Annotated[int, typer.Option(help="Images scored at once: memory, not results.")] = FailuresConfig.block,
    precision: Annotated[
        str, typer.Option(help="Of the embeddings that are ranked: fp32, tf32 or bf16.")
    ] = FailuresConfig.precision,
    device: options.Device = FailuresConfig.device,
    seed: options.seed("Accepted as by every command; nothing is drawn at random here.") = FailuresConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: which queries fail and what comes up instead, what changed against zero-shot, hubs, breakdowns.

    \b
    clipret failures
    clipret failures --head runs/0001-margin-linear --split val --queries 20
    clipret failures --zero-shot --cache data/coco.h5 --json
    """
    config = config_from(FailuresConfig, locals())
    from clipret.evaluation.failures import find_failures

    report = run(find_failures, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(report, as_json=as_json, sheets=SECTIONS["failures"](report), text=None if quiet else failures_summary(report))


@wraps(failures)
def errors(**options):
    typer.echo("clipret errors is called clipret failures now; the old name goes with the next release.", err=True)
    failures(**options)
