"""The command that trains many heads and measures the best: stage 2, which needs nothing but a cache."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import SweepConfig, TrainConfig
from clipret.errors import UsageError
from clipret.reporting import SECTIONS
from clipret.reporting.sweep import sweep_summary


@options.sweepable(TrainConfig)
@options.from_settings(SweepConfig, optional=("cache",))
def sweep(
    values: dict,
    *,
    axes: dict,
    context: typer.Context,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted sweep: its folder.")] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: train all combinations of settings with several seeds, rank them by validation, measure the best.

    Options with several values, commas between, span the combinations. Settings that do not apply (a margin with
    infonce) do not multiply the grid. What is not given is as in clipret train.

    \b
    clipret sweep --cache data/emoji.h5 --loss margin,infonce --margin 0,0.1,0.2 --lr 1e-4,3e-4
    clipret sweep --cache data/emoji.h5 --grid sweep.yaml --random 50
    clipret sweep --cache data/emoji.h5 --seeds 0,5,7 --batch-size 16,32 --keep-heads 3
    clipret sweep --cache data/emoji.h5 --loss margin,infonce --soup
    clipret sweep --resume runs/sweep-0001
    """
    quietly = quiet or as_json
    if resume is not None:
        options.refuse_beside_resume(context, "sweep")
        from clipret.sweeps import resume_sweep as stage

        result = run(stage, resume, quiet=quietly, on_interrupt=lambda: _how_to_resume(resume))
    else:
        result = _begin({**values, "axes": axes}, quiet=quietly)
    show(
        result,
        as_json=as_json,
        sheets=() if quiet else SECTIONS["sweep"](result),
        text=result["sweep"] if quiet else sweep_summary(result),
    )


def _begin(values: dict, *, quiet: bool) -> dict:
    if values["cache"] is None:
        raise UsageError("Missing option '--cache'. (clipret sweep --help tells more)")
    config = SweepConfig(**values)
    from clipret.sweeps import sweep as stage

    begun: list[Path] = []

    def begin(config: SweepConfig, *, on_progress: Callable) -> dict:
        return stage(config, on_progress=on_progress, on_begin=begun.append)

    return run(begin, config, quiet=quiet, on_interrupt=lambda: _how_to_resume(*begun))


def _how_to_resume(folder: Path | None = None) -> str:
    """What an interrupted sweep says: the command that resumes it."""
    if folder is None:
        return "nothing was trained yet; start again with the same command"
    return f"runs that are complete are kept; go on with: clipret sweep --resume {shlex.quote(str(folder))}"
