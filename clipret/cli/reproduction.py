"""The command of stage 2 that compares with what others have published: reproduce."""

from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import RunError, UsageError
from clipret.evaluation.reproduction.published import list_published
from clipret.reporting import SECTIONS
from clipret.reporting.reproduction import outside_message, published_summary, reproduction_summary


@options.from_settings(ReproduceConfig)
def reproduce(
    values: dict,
    *,
    context: typer.Context,
    listing: Annotated[
        bool, typer.Option("--list", help="Show what was published, and the cache that each row needs.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: compare a cache's figures with those that others have published of the same model and protocol.

    Exit status 1 when a figure is further from the published one than the tolerance.

    \b
    clipret reproduce --cache data/coco-karpathy.h5
    clipret reproduce --cache data/coco.h5 --head runs/0001-margin-linear --tolerance 1
    clipret reproduce --list
    """
    if listing:
        others = sorted(options.on_command_line(context) - {"listing", "quiet", "as_json"})
        if others:
            raise UsageError(f"--list measures nothing; leave out {', '.join(f'--{name}' for name in others)}.")
        listed = list_published()
        show(listed, as_json=as_json, sheets=SECTIONS["published"](listed), text=published_summary(listed))
        return
    config = ReproduceConfig(**values)
    from clipret.evaluation.reproduction.stage import reproduce as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(report, as_json=as_json, sheets=SECTIONS["reproduce"](report), text=reproduction_summary(report))
    if not report["passed"]:
        raise RunError(outside_message(report))
