"""The command line: typer commands over the stages. The only place that prints, prompts or exits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipret import __version__
from clipret.config import EvalConfig, ExtractConfig, TrainConfig, to_command
from clipret.display import ProgressDisplay, extraction_summary, info_table, metrics_table, training_summary
from clipret.errors import ClipretError, UsageError

# Typer keeps click's error classes under names that moved between its versions; BadParameter's bases did not.
_UsageFault = typer.BadParameter.__mro__[2]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks: the result and errors only.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto takes CUDA where there is one.")]
RunsDir = Annotated[Path, typer.Option(help="Folder that holds the runs.")]


def _seed(does: str):
    return Annotated[int, typer.Option(help=does)]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False):
    """Cross-modal retrieval with frozen CLIP: run CLIP once, then train and evaluate on its cached features.

    \b
    clipret extract --dataset emoji --model tiny-emoji
    clipret train --cache data/emoji.h5
    clipret eval
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def extract(
    dataset: Annotated[str, typer.Option(help="Data set: emoji or coco.")],
    model: Annotated[
        str, typer.Option(help="OpenAI's name (ViT-B/32, RN50, ...), tiny-emoji, or the path of a checkpoint.")
    ] = ExtractConfig.model,
    out: Annotated[Path | None, typer.Option(help="Cache to write.", show_default="data/DATASET.h5")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set's files are.", show_default="its own")] = None,
    batch_size: Annotated[int, typer.Option(help="Images, and captions, a batch.")] = ExtractConfig.batch_size,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images.", show_default="one a core, at most 8")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type of the stored features: float16 or float32.")] = ExtractConfig.dtype,
    prompt: Annotated[str, typer.Option(help="Text around every caption; {} is the caption.")] = ExtractConfig.prompt,
    background: Annotated[
        str | None,
        typer.Option(
            help="Behind transparent pixels: white, or clip for what clip does.", show_default="the data set's"
        ),
    ] = None,
    download_root: Annotated[
        Path | None, typer.Option(help="Where OpenAI's weights are kept.", show_default="~/.cache/clip")
    ] = None,
    device: Device = ExtractConfig.device,
    seed: _seed("Accepted as by every command; extraction draws nothing at random.") = ExtractConfig.seed,
    quiet: Quiet = False,
    as_json: Json = False,
):
    """Stage 1: run frozen CLIP once over a data set and write its features to one HDF5 file.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret extract --dataset emoji --model tiny-emoji --out data/emoji.h5
    clipret extract --dataset coco --root /datasets/coco --model ViT-B/32
    """
    config = ExtractConfig(
        dataset=dataset,
        out=out,
        model=model,
        root=root,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        prompt=prompt,
        background=background,
        device=device,
        download_root=download_root,
        seed=seed,
    )
    from clipret.extraction import extract as run

    resume = f"finished rows are kept; go on with: {to_command('extract', config)}"
    result = _run(run, config, quiet=quiet or as_json, on_interrupt=resume)
    _show(result, as_json=as_json, text=result["cache"] if quiet else extraction_summary(result, batch_size=batch_size))


@app.command()
def train(
    cache: Annotated[Path, typer.Option(help="Features to train on, by clipret extract.")],
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="0001-margin-linear, ...")] = None,
    runs_dir: RunsDir = TrainConfig.runs_dir,
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
    device: Device = TrainConfig.device,
    seed: _seed("Decides the order of the images and the captions drawn.") = TrainConfig.seed,
    quiet: Quiet = False,
    as_json: Json = False,
):
    """Stage 2: train CLIP's final projections on cached features and write a run.

    \b
    clipret train --cache data/emoji.h5
    clipret train --cache data/emoji.h5 --reduction mean --margin 0.5 --batch-size 16 --seed 1
    """
    config = TrainConfig(
        cache=cache,
        name=name,
        runs_dir=runs_dir,
        head=head,
        loss=loss,
        margin=margin,
        reduction=reduction,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        schedule=schedule,
        keep=keep,
        device=device,
        seed=seed,
    )
    from clipret.training import train as run

    kept = f"a run that finished an epoch keeps its best head; start again with: {to_command('train', config)}"
    result = _run(run, config, quiet=quiet or as_json, on_interrupt=kept)
    _show(result, as_json=as_json, text=result["run"] if quiet else training_summary(result))


@app.command("eval")
def evaluate(
    cache: Annotated[Path | None, typer.Option(help="Features to measure on.", show_default="the run's own")] = None,
    head: Annotated[
        Path | None, typer.Option(help="A run's folder or a head.safetensors.", show_default="the newest run")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Measure CLIP's own projections alone.")] = False,
    runs_dir: RunsDir = EvalConfig.runs_dir,
    split: Annotated[str, typer.Option(help="train, val, test or restval.")] = EvalConfig.split,
    k: Annotated[str, typer.Option("--k", help="The K of R@K and mAP@K, separated by commas.")] = ",".join(
        map(str, EvalConfig.k)
    ),
    out: Annotated[
        Path | None, typer.Option(help="Where to write the metrics.", show_default="metrics.json of the run")
    ] = None,
    block: Annotated[int, typer.Option(help="Queries scored at once: memory, not results.")] = EvalConfig.block,
    device: Device = EvalConfig.device,
    seed: _seed("Accepted as by every command; evaluation draws nothing at random.") = EvalConfig.seed,
    quiet: Quiet = False,
    as_json: Json = False,
):
    """Stage 2: measure R@K, mAP@K and the median rank, zero-shot beside trained, both directions.

    \b
    clipret eval
    clipret eval --head runs/0001-margin-linear --split val --json
    clipret eval --zero-shot --cache data/coco.h5
    """
    config = EvalConfig(
        cache=cache,
        head=head,
        zero_shot=zero_shot,
        runs_dir=runs_dir,
        split=split,
        k=_whole_numbers(k),
        out=out,
        block=block,
        device=device,
        seed=seed,
    )
    from clipret.evaluation import evaluate as run

    report = _run(run, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    _show(report, as_json=as_json, text=None)
    if not as_json:
        _out().print(metrics_table(report))
        if report["run"] and not quiet:
            typer.echo(f"run {report['run']}, cache {report['cache']['path']}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A cache, finished or not.", show_default=False)],
    as_json: Json = False,
):
    """Show what a cache holds: model, data set, splits, captions, completeness, problems, fingerprint.

    \b
    clipret info data/emoji.h5
    """
    from clipret.inspection import inspect_cache

    found = inspect_cache(file)
    _show(found, as_json=as_json, text=None)
    if not as_json:
        _out().print(info_table(found))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 for an error, 2 for bad usage, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return app(arguments or ["--help"], standalone_mode=False) or 0
    except ClipretError as error:
        _complain(str(error))
        return error.exit_code
    except _UsageFault as fault:
        _complain(f"{fault.format_message()} (clipret --help tells more)")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130


def _run(stage: Callable, config, *, quiet: bool, on_interrupt: str) -> dict:
    try:
        with ProgressDisplay(Console(stderr=True), quiet=quiet) as on_progress:
            return stage(config, on_progress=on_progress)
    except KeyboardInterrupt:
        _complain(f"interrupted; {on_interrupt}")
        raise typer.Exit(130) from None


def _show(result: dict, *, as_json: bool, text: str | None) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif text is not None:
        typer.echo(text)


def _complain(message: str) -> None:
    typer.echo(f"error: {message}", err=True)


def _out() -> Console:
    # Wide enough for the tables where there is no terminal to ask.
    console = Console()
    return console if console.is_terminal else Console(width=100)


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--k is '{text}'; expected whole numbers separated by commas, such as 1,5,10.") from None
