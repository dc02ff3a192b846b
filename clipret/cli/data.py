"""The commands of stage 1 and what comes before it: download, check, extract."""

from clipret.backbones import model_help
from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import CheckConfig, DownloadConfig, ExtractConfig, to_command
from clipret.datasets import DATASETS_HELP, DOWNLOADS, SPLITS_HELP
from clipret.reporting import SECTIONS
from clipret.reporting.data import download_summary
from clipret.reporting.summaries import extraction_summary

_HELPS = {"dataset": DATASETS_HELP, "split": SPLITS_HELP, "model": model_help()}


@options.from_settings(DownloadConfig, helps={"dataset": f"{' or '.join(DOWNLOADS)}."})
def download(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Fetch COCO 2017 and verify it, or tell how to get Flickr30k, whose owners ask for a form.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret download coco
    clipret download coco --annotations-only --base-url http://mirror.example/coco
    clipret download flickr30k
    """
    config = DownloadConfig(**values)
    from clipret.datasets.downloads.stage import download as stage

    go_on = f"what was fetched is kept; go on with: {to_command('download', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=go_on, batches=False)
    show(result, as_json=as_json, text=str(config.folder) if quiet else download_summary(result))


@options.from_settings(CheckConfig, helps=_HELPS)
def check(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Read a data set's annotations and look for its images: what extract would find wrong, before it takes long.

    \b
    clipret check --dataset coco
    clipret check --dataset emoji --model tiny-emoji
    clipret check --dataset shop.csv --root photos --columns image=file,caption=title
    """
    config = CheckConfig(**values)
    from clipret.extraction.checking import check_dataset as stage

    result = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    text = "ok" if quiet else f"Next: {to_command('extract', config)}"
    show(result, as_json=as_json, sheets=() if quiet else SECTIONS["check"](result), text=text)


@options.from_settings(ExtractConfig, helps=_HELPS)
def extract(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 1: run frozen CLIP once over a data set and write its features to one HDF5 file.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret extract --dataset emoji --model tiny-emoji --out data/emoji.h5
    clipret extract --dataset coco --split karpathy --root /datasets/coco --model ViT-B/32
    clipret extract --dataset shop.csv --root photos
    torchrun --nproc-per-node 8 -m clipret extract --dataset coco
    """
    config = ExtractConfig(**values)
    from clipret.extraction import current_rank
    from clipret.extraction import extract as stage

    rank = current_rank()
    follows = rank.index > 0
    resume = f"finished rows are kept; go on with: {rank.command(config)}"
    result = run(stage, config, quiet=quiet or as_json or follows, on_interrupt=resume)
    if not follows:
        summary = result["cache"] if quiet else extraction_summary(result, batch_size=config.batch_size)
        show(result, as_json=as_json, text=summary)
