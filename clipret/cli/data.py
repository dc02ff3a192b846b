"""The commands of stage 1 and what comes before it: download, check, extract."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import BATCH_SIZES, DatasetConfig, DownloadConfig, ExtractConfig, to_command
from clipret.errors import UsageError
from clipret.reporting import SECTIONS
from clipret.reporting.data import download_summary
from clipret.reporting.summaries import extraction_summary

_BATCH_SIZES = f"{BATCH_SIZES['cpu']} on the CPU, {BATCH_SIZES['cuda']} on a GPU"


def download(
    dataset: Annotated[str, typer.Argument(help="coco or flickr30k.", show_default=False)],
    root: Annotated[Path | None, typer.Option(help="Folder to put it in.", show_default="data/DATASET")] = None,
    annotations_only: Annotated[
        bool, typer.Option("--annotations-only", help="Without the images.")
    ] = DownloadConfig.annotations_only,
    base_url: Annotated[
        str | None, typer.Option(help="A mirror with the same paths.", show_default="the data set's own server")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Files fetched at once.")] = DownloadConfig.jobs,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Leave the archives beside what was unpacked.")
    ] = DownloadConfig.keep_archives,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Fetch COCO 2017 and verify it, or tell how to get Flickr30k, whose owners ask for a form.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret download coco
    clipret download coco --annotations-only --base-url http://mirror.example/coco
    clipret download flickr30k
    """
    config = config_from(DownloadConfig, locals())
    from clipret.datasets.downloads.stage import download as stage

    go_on = f"what was fetched is kept; go on with: {to_command('download', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=go_on, batches=False)
    show(result, as_json=as_json, text=str(config.folder) if quiet else download_summary(result))


def check(
    dataset: options.Dataset,
    root: options.Root = None,
    split: options.SplitRule = None,
    val_fraction: options.ValFraction = DatasetConfig.val_fraction,
    restval: options.Restval = DatasetConfig.restval,
    captions_per_image: options.CaptionsPerImage = None,
    caption_clean: options.CaptionClean = DatasetConfig.caption_clean,
    prompt: options.Prompt = DatasetConfig.prompt,
    columns: options.Columns = DatasetConfig.columns,
    skip_missing: options.SkipMissing = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Read a data set's annotations and look for its images: what extract would find wrong, before it takes long.

    \b
    clipret check --dataset coco
    clipret check --dataset shop.csv --root photos --columns image=file,caption=title
    """
    config = config_from(DatasetConfig, locals())
    from clipret.extraction.checking import check_dataset as stage

    result = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(result, as_json=as_json, sheets=() if quiet else SECTIONS["check"](result), text="ok" if quiet else None)


def extract(
    dataset: options.Dataset,
    model: Annotated[
        str, typer.Option(help="OpenAI's name (ViT-B/32, RN50, ...), tiny-emoji, or the path of a checkpoint.")
    ] = ExtractConfig.model,
    out: Annotated[Path | None, typer.Option(help="Cache to write.", show_default="data/DATASET.h5")] = None,
    root: options.Root = None,
    split: options.SplitRule = None,
    val_fraction: options.ValFraction = ExtractConfig.val_fraction,
    restval: options.Restval = ExtractConfig.restval,
    captions_per_image: options.CaptionsPerImage = None,
    caption_clean: options.CaptionClean = ExtractConfig.caption_clean,
    prompt: options.Prompt = ExtractConfig.prompt,
    columns: options.Columns = ExtractConfig.columns,
    skip_missing: options.SkipMissing = False,
    max_problems: Annotated[
        float, typer.Option(help="Stop when more than this share of the images cannot be read.")
    ] = ExtractConfig.max_problems,
    retry_problems: Annotated[
        bool, typer.Option("--retry-problems", help="Try the images again that could not be read before.")
    ] = ExtractConfig.retry_problems,
    batch_size: Annotated[
        int | None, typer.Option(help="Images, and captions, a batch.", show_default=_BATCH_SIZES)
    ] = ExtractConfig.batch_size,
    workers: Annotated[
        str, typer.Option(help="Processes that decode images and, on the CPU, encode; auto: one a core.")
    ] = "auto",
    read_timeout: Annotated[
        float, typer.Option(help="Seconds after which a process that still reads one image counts as hanging.")
    ] = ExtractConfig.read_timeout,
    dtype: Annotated[str, typer.Option(help="Type of the stored features: float16 or float32.")] = ExtractConfig.dtype,
    precision: Annotated[
        str, typer.Option(help="Of the model: fp32, fp16 (GPU) or bf16; auto: fp16 on a GPU, fp32 on the CPU.")
    ] = ExtractConfig.precision,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model with torch.compile, on a GPU.")
    ] = ExtractConfig.compile,
    decode: Annotated[
        str, typer.Option(help="exact: pixels as clip's; fast: JPEGs at a smaller scale, or decoded by the GPU.")
    ] = ExtractConfig.decode,
    background: Annotated[
        str | None,
        typer.Option(
            help="Behind transparent pixels: white, or clip for what clip does.", show_default="the data set's"
        ),
    ] = None,
    download_root: Annotated[
        Path | None, typer.Option(help="Where OpenAI's weights are kept.", show_default="~/.cache/clip")
    ] = None,
    merge: Annotated[
        bool, typer.Option(help="With torchrun: one file in the end, or the processes' files, joined by reference.")
    ] = ExtractConfig.merge,
    device: options.Device = ExtractConfig.device,
    seed: options.seed("Accepted as by every command; extraction draws nothing at random.") = ExtractConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 1: run frozen CLIP once over a data set and write its features to one HDF5 file.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret extract --dataset emoji --model tiny-emoji --out data/emoji.h5
    clipret extract --dataset coco --split karpathy --root /datasets/coco --model ViT-B/32
    clipret extract --dataset shop.csv --root photos
    torchrun --nproc-per-node 8 -m clipret extract --dataset coco
    """
    config = config_from(ExtractConfig, {**locals(), "workers": _workers(workers)})
    from clipret.extraction import current_rank
    from clipret.extraction import extract as stage

    rank = current_rank()
    follows = rank.index > 0
    resume = f"finished rows are kept; go on with: {rank.command(config)}"
    result = run(stage, config, quiet=quiet or as_json or follows, on_interrupt=resume)
    if not follows:
        summary = result["cache"] if quiet else extraction_summary(result, batch_size=batch_size)
        show(result, as_json=as_json, text=summary)


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--workers is '{text}'; expected a whole number, or auto.")
    return int(text)
