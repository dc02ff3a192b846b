"""The command of stage 2 that looks at what went wrong: failures."""

from functools import wraps

import typer

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config.failures import FailuresConfig
from clipret.reporting import SECTIONS
from clipret.reporting.failures import failures_summary


@options.from_settings(FailuresConfig)
def failures(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 2: which queries fail and what comes up instead, what changed by training, hubs, breakdowns.

    \b
    clipret failures
    clipret failures --head runs/0001-margin-linear --split val --queries 20
    clipret failures --zero-shot --cache data/coco.h5 --json
    """
    config = FailuresConfig(**values)
    from clipret.evaluation.failures import find_failures

    report = run(find_failures, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(report, as_json=as_json, sheets=SECTIONS["failures"](report), text=None if quiet else failures_summary(report))


@wraps(failures)
def errors(**values):
    typer.echo("clipret errors is called clipret failures now; the old name goes with the next release.", err=True)
    failures(**values)
