"""The metadata of a model card, as Hugging Face's hub reads it."""

import re

import yaml

from clipret.exports.checkpoints.card.figures import model_index, shown_metrics
from clipret.exports.targets.target import Target
from clipret.machine.escaping import visible

# OpenAI's models on the hub.
_HUB = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}
_ON_HUB = re.compile(r"(?:hf:|open_clip:hf-hub:)([A-Za-z0-9][\w.-]*/[\w.-]+)", re.ASCII)
_FAMILIES = {"open_clip": "open_clip, by this name and tag", "pair": "the two encoders, as they are named"}
_LICENCE = (
    "# The licence is yours to choose, within those of the encoder's weights and of the data set. Put its name here,\n"
    "# one of https://huggingface.co/docs/hub/repositories-licenses, and delete license_name.\n"
)


def name_of(record: dict) -> str:
    """What the model is called: as its run is."""
    return record["run"] or record["head"]["file"]


def metadata(record: dict, target: Target, *, figures: list[dict] | None) -> str:
    """The lines of YAML between the dashes. What is not known, as the hub's name of the encoder may be, is left out.

    record, figures  as card.text.card_text takes them
    """
    about = {
        "license": "other",
        "license_name": "fill-in",
        "library_name": target.library,
        "pipeline_tag": "zero-shot-image-classification" if target.encoder else "feature-extraction",
        "base_model": _on_hub(record["encoder"]["model"]),
        "datasets": [re.sub(r"[^\w./-]", "-", record["data"]["dataset"], flags=re.ASCII)],
        "tags": ["clip", "image-text-retrieval", "clipret"],
    }
    if figures:
        about["metrics"] = shown_metrics(figures[0])
        about["model-index"] = model_index(visible(name_of(record)), figures)
    about = {name: value for name, value in about.items() if value is not None}
    return _LICENCE + yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=1000)


def origin(model: str) -> str:
    """Where the weights of a model come from, in words."""
    if match := _ON_HUB.fullmatch(model):
        return f"https://huggingface.co/{match[1]}"
    if model in _HUB:
        return f"OpenAI's release of CLIP; on the hub https://huggingface.co/{_HUB[model]}"
    if model == "tiny-emoji":
        return "the package clipret, which contains them"
    family = model.partition(":")[0] if ":" in model else ""
    return _FAMILIES.get(family, "as it is named: OpenAI's release of CLIP, or a file of the author's")


def _on_hub(model: str) -> str | None:
    match = _ON_HUB.fullmatch(model)
    return match[1] if match else _HUB.get(model)
