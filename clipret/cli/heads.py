"""The commands of stage 2, which need a cache and nothing else: train, eval."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import PROTOCOLS, EvalConfig, TrainConfig, to_command
from clipret.display import metrics_tables, training_summary
from clipret.errors import UsageError


def train(
    cache: Annotated[Path, typer.Option(help="Features to train on, by clipret extract.")],
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="0001-margin-linear, ...")] = None,
    runs_dir: options.RunsDir = TrainConfig.runs_dir,
    head: Annotated[str, typer.Option(help="Kind of head: linear.")] = TrainConfig.head,
    loss: Annotated[str, typer.Option(help="Loss: margin.")] = TrainConfig.loss,
    margin: Annotated[float, typer.Option(help="m of the margin loss, from 0 to 1.")] = TrainConfig.margin,
    reduction: Annotated[
        str, typer.Option(help="balanced: mean over matching plus mean over other pairs; mean: mean over all pairs.")
    ] = TrainConfig.reduction,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = TrainConfig.epochs,
    batch_size: Annotated[int, typer.Option(help="Images a step, each with one caption.")] = TrainConfig.batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = TrainConfig.lr,
    beta1: Annotated[float, typer.Option(help="AdamW's first beta.")] = TrainConfig.beta1,
    beta2: Annotated[float, typer.Option(help="AdamW's second beta.")] = TrainConfig.beta2,
    eps: Annotated[float, typer.Option(help="AdamW's epsilon.")] = TrainConfig.eps,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = TrainConfig.weight_decay,
    schedule: Annotated[
        str, typer.Option(help="Learning rate: constant, or cosine: down to 0 over the training.")
    ] = TrainConfig.schedule,
    keep: Annotated[str, typer.Option(help="Epoch to keep: best by validation rsum, or last.")] = TrainConfig.keep,
    device: options.Device = TrainConfig.device,
    seed: options.seed("Decides the order of the images and the captions drawn.") = TrainConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: train CLIP's final projections on cached features and write a run.

    \b
    clipret train --cache data/emoji.h5
    clipret train --cache data/emoji.h5 --reduction mean --margin 0.5 --batch-size 16 --seed 1
    """
    config = config_from(TrainConfig, locals())
    from clipret.training import train as stage

    kept = f"a run that finished an epoch keeps its best head; start again with: {to_command('train', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=kept)
    show(result, as_json=as_json, text=result["run"] if quiet else training_summary(result))


def evaluate(
    cache: Annotated[Path | None, typer.Option(help="Features to measure on.", show_default="the run's own")] = None,
    head: Annotated[
        Path | None, typer.Option(help="A run's folder or a head.safetensors.", show_default="the newest run")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Measure CLIP's own projections alone.")] = False,
    runs_dir: options.RunsDir = EvalConfig.runs_dir,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"One or more of {', '.join(PROTOCOLS)}; commas between.", show_default="the data set's"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of protocol split: train, val, test or restval.", show_default="test")
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Measure also on images that the head was trained on.")
    ] = EvalConfig.allow_leak,
    k: Annotated[str, typer.Option("--k", help="The K of R@K and mAP@K, separated by commas.")] = ",".join(
        map(str, EvalConfig.k)
    ),
    out: Annotated[
        Path | None, typer.Option(help="Where to write the metrics.", show_default="metrics.json of the run")
    ] = None,
    block: Annotated[int, typer.Option(help="Queries scored at once: memory, not results.")] = EvalConfig.block,
    device: options.Device = EvalConfig.device,
    seed: options.seed("Accepted as by every command; evaluation draws nothing at random.") = EvalConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: measure R@K, mAP@K and the median rank, zero-shot beside trained, both directions.

    \b
    clipret eval
    clipret eval --head runs/0001-margin-linear --split val --json
    clipret eval --zero-shot --cache data/coco.h5
    clipret eval --protocol coco-karpathy-5k,coco-karpathy-1k
    """
    given = {**locals(), "k": _whole_numbers(k), "protocol": tuple(filter(None, (protocol or "").split(",")))}
    config = config_from(EvalConfig, given)
    from clipret.evaluation import evaluate as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    measured = f"run {report['run']}, cache {report['cache']['path']}" if report["run"] and not quiet else None
    show(report, as_json=as_json, tables=metrics_tables(report), text=measured)


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--k is '{text}'; expected whole numbers separated by commas, such as 1,5,10.") from None
