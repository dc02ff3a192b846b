"""The commands for caches that are there, or made of features that are: import, info, verify, merge."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import ImportConfig, MergeConfig, VerifyConfig, to_command
from clipret.errors import UsageError
from clipret.reporting import SECTIONS
from clipret.reporting.caches import import_summary, merge_summary


def info(
    file: Annotated[Path | None, typer.Argument(help="A cache, finished or not.", show_default=False)] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Show this machine instead: processor, memory, GPUs, torch.")
    ] = False,
    problems: Annotated[
        bool, typer.Option("--problems", help="List every image that could not be read, and why.")
    ] = False,
    truncated: Annotated[
        bool, typer.Option("--truncated", help="List every caption that was too long for the model.")
    ] = False,
    as_json: options.Json = False,
):
    """Show what a cache holds: model, data set, splits, captions, completeness, problems, fingerprint. Or this machine.

    \b
    clipret info data/emoji.h5
    clipret info data/coco.h5 --problems
    clipret info data/flickr30k.h5 --truncated
    clipret info --machine
    """
    if machine == (file is not None):
        raise UsageError("info needs either the path of a cache or --machine.")
    if machine:
        from clipret.machine.description import describe_machine

        description = describe_machine()
        show(description, as_json=as_json, sheets=SECTIONS["machine"](description))
        return
    from clipret.cache.inspection import inspect_cache

    report = inspect_cache(file)
    show(report, as_json=as_json, sheets=SECTIONS["info"](report, problems=problems, truncated=truncated))


@options.from_settings(ImportConfig)
def import_features(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Make a cache of features that you have already: arrays of embeddings and a table of what they are of.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret import --images img.npy --texts text.npy --table meta.parquet --out data/shop.h5
    clipret import embeddings --out data/shop.h5
    clipret import --images 'img_*.npy' --texts text.safetensors --kind raw --out data/pair.h5
    """
    config = ImportConfig(**values)
    from clipret.cache.importing.stage import import_features as stage

    resume = f"finished rows are kept; go on with: {to_command('import', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=resume)
    show(result, as_json=as_json, text=result["cache"] if quiet else import_summary(result))


@options.from_settings(VerifyConfig)
def verify(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Reread a cache: structure, states, finite values, the checksum of every row; exit status 1 when it is damaged.

    \b
    clipret verify data/emoji.h5
    clipret verify data/emoji.h5 --sample 50
    """
    config = VerifyConfig(**values)
    from clipret.extraction.verification import verify as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was changed")
    show(report, as_json=as_json, sheets=() if quiet else SECTIONS["verify"](report), text=report["verdict"])
    if not report["sound"]:
        raise typer.Exit(1)


@options.from_settings(MergeConfig)
def merge(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Join caches of different images, made with the same model and settings: a collection that grows.

    \b
    clipret merge monday.h5 tuesday.h5 -o week.h5
    """
    config = MergeConfig(**values)
    from clipret.cache.merging import merge as stage

    again = f"nothing is left half done; again with: {to_command('merge', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=again)
    show(result, as_json=as_json, text=result["cache"] if quiet else merge_summary(result))
