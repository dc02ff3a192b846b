"""The command that trains a head: stage 2, which needs a cache and nothing else."""

import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import TrainConfig, to_command
from clipret.errors import UsageError
from clipret.reporting.summaries import training_summary

# Options whose names here are not those of the settings.
_SETTINGS = {"train_side": "train"}
_HEAD, _LOSS, _STEPS, _MACHINE = "Head", "Loss", "Steps", "Machine"


def _option(text: str, panel: str, **more):
    return typer.Option(help=text, rich_help_panel=panel, **more)


def train(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Option(help="Features to train on, by clipret extract.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="0001-margin-linear, ...")] = None,
    runs_dir: options.RunsDir = TrainConfig.runs_dir,
    config: Annotated[
        Path | None, typer.Option(help="Repeat a run: its config.json. Further options change settings of it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run: its folder.")] = None,
    drop_cross_split_duplicates: Annotated[
        bool,
        typer.Option(
            "--drop-cross-split-duplicates",
            help="Leave out training images that equal val or test images, byte for byte.",
        ),
    ] = TrainConfig.drop_cross_split_duplicates,
    head: Annotated[str, _option("linear, or adapter behind CLIP's own.", _HEAD)] = TrainConfig.head,
    train_side: Annotated[
        str, typer.Option("--train", help="Side that learns: both, image or text.", rich_help_panel=_HEAD)
    ] = TrainConfig.train,
    init: Annotated[
        str, _option("What a linear head starts as: clip, random, procrustes or ridge.", _HEAD)
    ] = TrainConfig.init,
    ridge: Annotated[str, _option("Strength of ridge's pull towards CLIP, or auto.", _HEAD)] = TrainConfig.ridge,
    adapter_reduction: Annotated[
        int, _option("The embedding is this many times as wide as the bottleneck.", _HEAD)
    ] = TrainConfig.adapter_reduction,
    adapter_ratio: Annotated[
        float, _option("Share of the adapter in the embedding.", _HEAD)
    ] = TrainConfig.adapter_ratio,
    adapter_relu: Annotated[bool, _option("Whether the adapter ends in a ReLU.", _HEAD)] = TrainConfig.adapter_relu,
    loss: Annotated[str, _option("margin, infonce, triplet or sigmoid.", _LOSS)] = TrainConfig.loss,
    margin: Annotated[str, _option("Of margin and triplet: a number, START:END, auto or auto:Q.", _LOSS)] = str(
        TrainConfig.margin
    ),
    reduction: Annotated[
        str, _option("Of margin: balanced (mean of matching plus mean of others) or mean of all pairs.", _LOSS)
    ] = TrainConfig.reduction,
    violation: Annotated[str, _option("Of triplet: max, the hardest negative, or sum.", _LOSS)] = TrainConfig.violation,
    temperature: Annotated[
        float | None, _option("Of infonce and sigmoid, held fixed.", _LOSS, show_default="learned")
    ] = TrainConfig.temperature,
    hard_negatives: Annotated[
        int, _option("Pairs each item brings along: its hardest negatives of the set.", _LOSS)
    ] = TrainConfig.hard_negatives,
    epochs: Annotated[int, _option("Passes over the training images; 0: as it starts.", _STEPS)] = TrainConfig.epochs,
    steps: Annotated[int | None, _option("Updates, instead of epochs.", _STEPS)] = TrainConfig.steps,
    batch_size: Annotated[int, _option("Images a step.", _STEPS)] = TrainConfig.batch_size,
    captions_per_step: Annotated[
        str, _option("Captions of an image: one, drawn at random, or all.", _STEPS)
    ] = TrainConfig.captions_per_step,
    lr: Annotated[float, _option("Learning rate of AdamW.", _STEPS)] = TrainConfig.lr,
    beta1: Annotated[float, _option("AdamW's first beta.", _STEPS)] = TrainConfig.beta1,
    beta2: Annotated[float, _option("AdamW's second beta.", _STEPS)] = TrainConfig.beta2,
    eps: Annotated[float, _option("AdamW's epsilon.", _STEPS)] = TrainConfig.eps,
    weight_decay: Annotated[float, _option("AdamW's weight decay.", _STEPS)] = TrainConfig.weight_decay,
    clip_norm: Annotated[
        float | None, _option("Largest norm of the gradient.", _STEPS, show_default="any")
    ] = TrainConfig.clip_norm,
    ema: Annotated[
        float | None, _option("Decay of the head's moving average, which is then kept.", _STEPS, show_default="none")
    ] = TrainConfig.ema,
    schedule: Annotated[
        str, _option("Learning rate: constant, cosine (to 0), or step.", _STEPS)
    ] = TrainConfig.schedule,
    step_epochs: Annotated[int, _option("Of step: every so many epochs ...", _STEPS)] = TrainConfig.step_epochs,
    step_factor: Annotated[float, _option("... times this.", _STEPS)] = TrainConfig.step_factor,
    warmup: Annotated[int, _option("Steps in which the learning rate rises to --lr.", _STEPS)] = TrainConfig.warmup,
    patience: Annotated[
        int | None, _option("Stop after so many epochs without a better val rsum.", _STEPS, show_default="never")
    ] = TrainConfig.patience,
    keep: Annotated[str, _option("Epoch to keep: best by val rsum, or last.", _STEPS)] = TrainConfig.keep,
    precision: Annotated[
        str, _option("Of matrix products: fp32, tf32 (CUDA) or bf16.", _MACHINE)
    ] = TrainConfig.precision,
    features: Annotated[
        str, _option("Where features live: auto, device, host or disk.", _MACHINE)
    ] = TrainConfig.features,
    memory_limit: Annotated[
        float | None, _option("GiB that features may take.", _MACHINE, show_default="most of what is free")
    ] = TrainConfig.memory_limit,
    log: Annotated[str, _option("Also log to tensorboard, wandb, mlflow; commas between.", _MACHINE)] = "",
    device: options.Device = TrainConfig.device,
    seed: options.seed("Decides the order of images, the captions drawn, a random start.") = TrainConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: train a head on cached features and write a run.

    \b
    clipret train --cache data/emoji.h5
    clipret train --cache data/emoji.h5 --loss infonce --batch-size 256 --lr 3e-4 --warmup 20
    clipret train --cache data/emoji.h5 --head adapter --train image
    clipret train --cache data/emoji.h5 --init ridge --epochs 0
    clipret train --config runs/0001-margin-linear/config.json --seed 1
    clipret train --resume runs/0001-margin-linear
    """
    given = {**locals(), "train": train_side, "log": tuple(filter(None, log.split(",")))}
    given = {name: value for name, value in given.items() if name not in ("context", "config", "resume", "train_side")}
    quietly = quiet or as_json
    if resume is not None:
        options.refuse_beside_resume(context, "run")
        from clipret.training import resume as stage

        interrupted = f"go on with: clipret train --resume {shlex.quote(str(resume))}"
        result = run(stage, resume, quiet=quietly, on_interrupt=interrupted)
    else:
        from clipret.training import repeated_config
        from clipret.training import train as stage

        chosen = {_SETTINGS.get(name, name) for name in options.chosen(context)}
        changes = {field.name: given[field.name] for field in fields(TrainConfig) if field.name in chosen}
        settings = _first(given) if config is None else repeated_config(config, changes=changes)

        result = run(stage, settings, quiet=quietly, on_interrupt=_way_on(settings))
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


def _way_on(settings: TrainConfig) -> Callable[[], str]:
    """What to say of a training that was interrupted: the command that goes on with its run."""
    before = set(settings.runs_dir.glob("*"))

    def tell() -> str:
        from clipret import runs

        made = [path for path in settings.runs_dir.glob("*") if path not in before and (path / runs.CONFIG).exists()]
        if len(made) != 1:
            return f"start again with: {to_command('train', settings)}"
        kept = "its best head so far is kept; " if (made[0] / runs.HEAD).exists() else ""
        return f"{kept}go on with: clipret train --resume {shlex.quote(str(made[0]))}"

    return tell


def _first(given: dict) -> TrainConfig:
    if given["cache"] is None:
        raise UsageError("Missing option '--cache'. (clipret --help tells more)")
    return config_from(TrainConfig, given)
