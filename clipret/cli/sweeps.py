"""The command that trains many heads and chooses one: stage 2, which needs a cache and nothing else."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config.sweeps import SWEPT, SweepConfig
from clipret.errors import UsageError
from clipret.reporting import SECTIONS
from clipret.reporting.sweep import sweep_summary

_SWEEP, _HEAD, _LOSS, _STEPS, _MACHINE = "Sweep", "Head", "Loss", "Steps", "Machine"


def _axis(text: str, panel: str):
    """An option that takes one value or several, which are all tried."""
    return Annotated[str | None, typer.Option(help=text, rich_help_panel=panel, metavar="V,V,...", show_default=False)]


def _option(text: str, panel: str = _SWEEP, **more):
    return typer.Option(help=text, rich_help_panel=panel, **more)


def sweep(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Option(help="Features to train on, by clipret extract.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep.", show_default="sweep-0001, ...")] = None,
    runs_dir: options.RunsDir = SweepConfig.runs_dir,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted sweep: its folder.")] = None,
    grid: Annotated[Path | None, _option("YAML file: settings and their values, or a list of such.")] = None,
    random: Annotated[int | None, _option("Draw so many combinations.", show_default="all")] = SweepConfig.random,
    seeds: Annotated[str, _option("Seeds of each combination: how many, or which: 0,5,7.")] = str(
        len(SweepConfig.seeds)
    ),
    keep_heads: Annotated[
        int, _option("Combinations, the best by validation, whose heads are kept.")
    ] = SweepConfig.keep_heads,
    test_all: Annotated[
        bool, _option("Measure all on the test split, not the chosen one only.")
    ] = SweepConfig.test_all,
    drop_cross_split_duplicates: Annotated[
        bool | None,
        typer.Option(
            "--drop-cross-split-duplicates",
            help="Leave out training images that equal val or test images, byte for byte.",
            show_default=False,
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    head: _axis("linear, adapter.", _HEAD) = None,
    train: _axis("Side that learns: both, image, text.", _HEAD) = None,
    init: _axis("Start: clip, random, procrustes, ridge.", _HEAD) = None,
    ridge: _axis("Strength of ridge's pull towards CLIP, or auto.", _HEAD) = None,
    adapter_reduction: _axis("The embedding is this many times as wide as the bottleneck.", _HEAD) = None,
    adapter_ratio: _axis("Share of the adapter in the embedding.", _HEAD) = None,
    adapter_relu: _axis("Whether the adapter ends in a ReLU: true, false.", _HEAD) = None,
    loss: _axis("margin, infonce, triplet, sigmoid.", _LOSS) = None,
    margin: _axis("Of margin and triplet: numbers, START:END, auto, auto:Q.", _LOSS) = None,
    reduction: _axis("Of margin: balanced, mean.", _LOSS) = None,
    violation: _axis("Of triplet: max, sum.", _LOSS) = None,
    temperature: _axis("Of infonce and sigmoid, held fixed; none: learned.", _LOSS) = None,
    hard_negatives: _axis("Pairs each item brings along.", _LOSS) = None,
    epochs: _axis("Passes over the training images.", _STEPS) = None,
    steps: _axis("Updates, instead of epochs.", _STEPS) = None,
    batch_size: _axis("Images a step.", _STEPS) = None,
    captions_per_step: _axis("Captions of an image: one, all.", _STEPS) = None,
    lr: _axis("Learning rate.", _STEPS) = None,
    weight_decay: _axis("AdamW's weight decay.", _STEPS) = None,
    clip_norm: _axis("Largest norm of the gradient, or none.", _STEPS) = None,
    ema: _axis("Decay of the head's moving average, or none.", _STEPS) = None,
    schedule: _axis("Of the learning rate: constant, cosine, step.", _STEPS) = None,
    warmup: _axis("Steps in which the learning rate rises.", _STEPS) = None,
    patience: _axis("Epochs without a better val rsum before a stop, or none.", _STEPS) = None,
    keep: _axis("Epoch to keep: best, last.", _STEPS) = None,
    precision: _axis("Of matrix products: fp32, tf32, bf16.", _MACHINE) = None,
    features: _axis("Where features live: auto, device, host, disk.", _MACHINE) = None,
    stack: Annotated[
        int | None, _option("Runs trained at once.", _MACHINE, show_default="what does best")
    ] = SweepConfig.stack,
    memory_limit: Annotated[
        float | None, _option("GiB that features may take.", _MACHINE, show_default="most of what is free")
    ] = SweepConfig.memory_limit,
    device: options.Device = SweepConfig.device,
    seed: options.seed("Decides which combinations --random draws.") = SweepConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: train all combinations of settings with several seeds, rank them by validation, measure the best.

    Options with several values, commas between, span the combinations; a setting without an option here goes into the
    --grid file. Settings that a combination has no use for, as a margin for infonce, make no combinations.

    \b
    clipret sweep --cache data/emoji.h5 --loss margin,infonce --margin 0,0.1,0.2 --lr 1e-4,3e-4
    clipret sweep --cache data/emoji.h5 --grid sweep.yaml --random 50
    clipret sweep --cache data/emoji.h5 --seeds 0,5,7 --batch-size 16,32 --keep-heads 3
    clipret sweep --resume runs/sweep-0001
    """
    given = {option: value for option, value in locals().items() if option != "context"}
    quietly = quiet or as_json
    if resume is not None:
        options.refuse_beside_resume(context, "sweep")
        from clipret.sweeps import resume_sweep as stage

        result = run(stage, resume, quiet=quietly, on_interrupt=lambda: _way_on(resume))
    else:
        result = _begin(given, quiet=quietly)
    show(
        result,
        as_json=as_json,
        sheets=() if quiet else SECTIONS["sweep"](result),
        text=result["sweep"] if quiet else sweep_summary(result),
    )


def _begin(given: dict, *, quiet: bool) -> dict:
    if given["cache"] is None:
        raise UsageError("Missing option '--cache'. (clipret --help tells more)")
    axes = {name: given[name] for name in SWEPT if given.get(name) is not None}
    config = config_from(SweepConfig, {**given, "axes": axes})
    from clipret.sweeps import sweep as stage

    begun: list[Path] = []

    def begin(config: SweepConfig, *, on_progress: Callable) -> dict:
        return stage(config, on_progress=on_progress, on_begin=begun.append)

    return run(begin, config, quiet=quiet, on_interrupt=lambda: _way_on(*begun))


def _way_on(folder: Path | None = None) -> str:
    """What to say of a sweep that was interrupted."""
    if folder is None:
        return "nothing was trained yet; start again with the same command"
    return f"runs that are complete are kept; go on with: clipret sweep --resume {shlex.quote(str(folder))}"
