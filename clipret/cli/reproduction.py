"""The command of stage 2 that compares with what others have published: reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import RunError, UsageError
from clipret.evaluation.reproduction.published import list_published
from clipret.reporting import SECTIONS
from clipret.reporting.reproduction import outside_message, published_summary, reproduction_summary


def reproduce(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Option(help="Features to measure.")] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="A run's folder: compare fine-tuned figures as well.", show_default="CLIP's own head alone"),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Points that a figure may be from the published one.")
    ] = ReproduceConfig.tolerance,
    listing: Annotated[
        bool, typer.Option("--list", help="Show what was published, and the cache that each row needs.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the comparison as JSON.", show_default="nowhere")
    ] = None,
    block: Annotated[int, typer.Option(help="Images scored at once: memory, not results.")] = ReproduceConfig.block,
    device: options.Device = ReproduceConfig.device,
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
        given = sorted(options.chosen(context) - {"listing", "quiet", "as_json"})
        if given:
            raise UsageError(f"--list measures nothing; leave out {', '.join(f'--{name}' for name in given)}.")
        listed = list_published()
        show(listed, as_json=as_json, sheets=SECTIONS["published"](listed), text=published_summary(listed))
        return
    config = config_from(ReproduceConfig, locals())
    from clipret.evaluation.reproduction import reproduce as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(report, as_json=as_json, sheets=SECTIONS["reproduce"](report), text=reproduction_summary(report))
    if not report["passed"]:
        raise RunError(outside_message(report))
