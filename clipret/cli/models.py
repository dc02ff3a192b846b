"""The command that lists encoders: models."""

import typer

from clipret.backbones import FAMILIES
from clipret.cli import options
from clipret.cli.running import show
from clipret.config.models import ModelsConfig
from clipret.machine.escaping import visible
from clipret.reporting import FORMS, SECTIONS

_HELPS = {
    "family": f"Only models of one family: {', '.join(FAMILIES)}.",
    "download_root": "Folder of downloaded weights, if extract was given one.",
}


@options.from_settings(ModelsConfig, helps=_HELPS)
def models(values: dict, *, as_json: options.Json = False):
    """List the encoders for --model: installed packages, cached weights, widths and published zero-shot results.

    The best on COCO come first. Nothing is downloaded or loaded.

    \b
    clipret models
    clipret models siglip
    clipret models --family open_clip --cached
    clipret models --format csv
    """
    config = ModelsConfig(**values)
    from clipret.backbones.catalogue import list_models
    from clipret.evaluation.reproduction.published import zero_shot_figures

    result = list_models(config, published=zero_shot_figures())
    if as_json or config.format in ("table", "json"):
        show(result, as_json=as_json or config.format == "json", sheets=SECTIONS["models"](result))
        return
    sheets = SECTIONS["models-records" if config.format == "csv" else "models"](result)
    typer.echo(visible(FORMS[config.format](sheets)), nl=False)
