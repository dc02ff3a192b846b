"""The commands of stage 3, for use by other programs: embed and export."""

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import EmbedConfig, ExportConfig, to_command
from clipret.exports import EMBEDDING_FORMATS, INDEXES, TARGETS
from clipret.reporting.exports import embedding_summary, export_summary

_HELPS = {
    "out": f"File to write; its ending is the format: {', '.join(EMBEDDING_FORMATS)}.",
    "index": f"Also write an index of the images' and one of the captions' embeddings: {' or '.join(INDEXES)}.",
}


def target_help() -> str:
    """The targets with what they write, for --help."""
    return "; ".join(f"{name}, {row.help}" for name, row in TARGETS.items())


@options.from_settings(EmbedConfig, helps=_HELPS)
def embed(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 3: write the embeddings of a cache, images and captions, for vector databases and other programs.

    Run again after an interruption, the same command goes on where it stopped.

    \b
    clipret embed data/emoji.h5 --head runs/0001-margin-linear --out emb.parquet
    clipret embed data/emoji.h5 --zero-shot --split test --dtype float16 --out emb.npy
    clipret embed data/coco.h5 --head runs/0002-infonce-linear --out coco.safetensors --index usearch
    """
    config = EmbedConfig(**values)
    from clipret.exports.embeddings.stage import embed as stage

    resume = f"go on with: {to_command('embed', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=resume)
    show(result, as_json=as_json, text=result["out"] if quiet else embedding_summary(result))


@options.from_settings(ExportConfig, helps={"to": f"What to write: {target_help()}."})
def export(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 3: write a trained head, with its encoder, for another library.

    The folder is opened by that library and compared with clipret's own embeddings before the command ends.

    \b
    clipret export runs/0001-margin-linear --to open_clip --out exported
    clipret export runs/0001-margin-linear --to onnx --out exported-onnx
    """
    config = ExportConfig(**values)
    from clipret.exports.checkpoints.stage import export as stage

    again = f"start it again with: {to_command('export', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=again, batches=False)
    show(result, as_json=as_json, text=result["out"] if quiet else export_summary(result))
