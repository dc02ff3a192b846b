"""The models and tags of the installed open_clip, and their widths, read from its files without importing it.

Importing open_clip imports torch, which takes seconds. Parts of its files in an unexpected form are left out.
"""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clipret.machine.records import RecordError, read_record

# Of a folder as open_clip saves it: its config, and its weights, in order of preference.
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
# Of a tag's repository whose file is not in the table.
_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Tag(NamedTuple):
    """The source of a tag's weights.

    repository  of the hub, ORG/NAME; "" for none
    names       possible names of the file in it, in order of preference
    url         used by open_clip if there is no repository
    """

    repository: str
    names: tuple[str, ...]
    url: str


def open_clip_folder() -> Path | None:
    """The folder of the installed package; None if it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def read_tags(folder: Path) -> dict[tuple[str, str], Tag]:
    """(model, tag) -> the source of its weights, for all pairs in open_clip's table that have a config."""
    try:
        tree = ast.parse((folder / "pretrained.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    names: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = _value(statement.value, names)
    table = names.get("_PRETRAINED")
    pairs = {}
    for model, tags in table.items() if isinstance(table, dict) else ():
        for tag, about in tags.items() if isinstance(tags, dict) else ():
            if isinstance(about, dict):
                pairs[model, tag] = _tag(about)
                if about.get("quick_gelu"):
                    pairs[f"{model}-quickgelu", tag] = _tag(about)
    return {pair: tag for pair, tag in pairs.items() if (folder / "model_configs" / f"{pair[0]}.json").is_file()}


def read_config(folder: Path, model: str) -> dict:
    """The config of a model's architecture; empty if it cannot be read."""
    return load_json(folder / "model_configs" / f"{model}.json")


def widths_of(config: Mapping[str, Any]) -> dict[str, int | None]:
    """The image size in pixels (side) and the widths (image, text, embedding) in a config; None if missing."""
    vision, text = part_of(config, "vision_cfg"), part_of(config, "text_cfg")
    side, embedding = vision.get("image_size", 224), config.get("embed_dim")
    widths = {
        "side": side[0] if isinstance(side, list) and side else side,
        "image": _image_width(vision, embedding=embedding),
        "text": None if "hf_model_name" in text else text.get("width", 512),
        "embedding": embedding,
    }
    return whole_numbers(widths)


def load_json(path: Path) -> dict:
    """The JSON object in a file; empty if there is none."""
    try:
        return read_record(path, {})
    except (OSError, RecordError):
        return {}


def part_of(config: Mapping[str, Any], name: str) -> dict:
    """The object in a field of a config; empty if there is none."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def whole_numbers(values: Mapping[str, Any]) -> dict[str, int | None]:
    """The values, with None for those that are no whole numbers: a downloaded config may hold anything."""
    return {name: value if type(value) is int else None for name, value in values.items()}


def _image_width(vision: Mapping[str, Any], *, embedding: Any) -> Any:
    if "timm_model_name" in vision:
        # Without a projection the trunk's features are the embeddings. Its width is otherwise known to timm only.
        return embedding if vision.get("timm_proj") == "none" else None
    if isinstance(vision.get("layers"), list):
        width = vision.get("width", 64)
        return 32 * width if type(width) is int else None
    return embedding if vision.get("attentional_pool") else vision.get("width", 768)


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression of constants, names, dicts and calls with keywords; None for any other."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return {key: _value(value, names) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.Call):
        first = {"url": _value(node.args[0], names)} if node.args else {}
        return first | {keyword.arg: _value(keyword.value, names) for keyword in node.keywords}
    return None


def _tag(about: Mapping[str, Any]) -> Tag:
    repository, _, file = (about.get("hf_hub") or "").rpartition("/")
    stem = file.rpartition(".")[0]
    names = (f"{stem}.safetensors", file) if file else _NAMES
    return Tag(repository, names, about.get("url") or "")
