"""The command that trains a head: stage 2, which needs nothing but a cache."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import results_only, run, show
from clipret.config import TrainConfig, to_command
from clipret.config.recipes import recipe_settings
from clipret.config.training import in_use
from clipret.config.unused import require_use
from clipret.errors import UsageError
from clipret.reporting.summaries import training_summary


@options.from_settings(TrainConfig, optional=("cache",))
def train(
    values: dict,
    *,
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Repeat a run: its config.json. Further options change settings of it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run: its folder.")] = None,
    recipe: options.Recipe = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: train a head on cached features and write a run.

    \b
    clipret train --cache data/emoji.h5
    clipret train --cache data/emoji.h5 --recipe strong
    clipret train --cache data/emoji.h5 --loss infonce --batch-size 256 --lr 3e-4 --warmup 20
    clipret train --cache data/emoji.h5 --head adapter --train image
    clipret train --cache data/emoji.h5 --init ridge --epochs 0
    clipret train --config runs/0001-margin-linear/config.json --seed 1
    clipret train --resume runs/0001-margin-linear
    """
    quietly = quiet or as_json
    if resume is not None:
        options.refuse_beside_resume(context, "run")
        from clipret.training import resume as stage

        interrupted = f"go on with: clipret train --resume {shlex.quote(str(resume))}"
        result = run(stage, resume, quiet=quietly, on_interrupt=interrupted)
    else:
        from clipret.training import repeated_config
        from clipret.training import train as stage

        changes = {name: values[name] for name in options.on_command_line(context) & set(values)}
        with results_only():
            if config is None:
                settings = _first(values | _of_recipe(recipe, changes))
            elif recipe is None:
                settings = repeated_config(config, changes=changes)
            else:
                raise UsageError("--recipe and --config both say what to begin with; leave one of them out.")
        require_use(settings, changes)
        result = run(stage, settings, quiet=quietly, on_interrupt=_how_to_resume(settings))
    show(
        result,
        as_json=as_json,
        text=result["run"] if quiet else training_summary(result, evaluation=_evaluation(result["run"])),
    )


def _evaluation(run: str) -> str:
    """The command that measures a run: without its name where it is the one that would be taken."""
    from clipret.runs import newest_run

    newest = Path(run).parent == TrainConfig.runs_dir and newest_run(TrainConfig.runs_dir) == Path(run)
    return "clipret eval" if newest else f"clipret eval --head {shlex.quote(run)}"


def _how_to_resume(settings: TrainConfig) -> Callable[[], str]:
    """What an interrupted training says: the command that resumes its run."""
    before = set(settings.runs_dir.glob("*"))

    def tell() -> str:
        from clipret import runs

        new = [path for path in settings.runs_dir.glob("*") if path not in before and (path / runs.CONFIG).exists()]
        if len(new) != 1:
            return f"start again with: {to_command('train', settings)}"
        kept = "its best head so far is kept; " if (new[0] / runs.HEAD).exists() else ""
        return f"{kept}go on with: clipret train --resume {shlex.quote(str(new[0]))}"

    return tell


def _of_recipe(name: str | None, changes: dict) -> dict:
    """The settings of a recipe beside those that were given: these, and what makes a difference beside them."""
    if name is None:
        return {}
    merged = recipe_settings(name) | changes
    return {name: value for name, value in merged.items() if name in changes or in_use(merged, name)}


def _first(values: dict) -> TrainConfig:
    if values["cache"] is None:
        raise UsageError("Missing option '--cache'. (clipret train --help tells more)")
    return TrainConfig(**values)
