"""A list of encoders: the families, their installed packages, and their models with widths and cached weights.

No library is imported, and nothing is downloaded or loaded: models are read from tables, from the files of installed
packages, and from the folders of downloaded weights.
"""

import importlib.resources
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipret.backbones import FAMILIES, Family
from clipret.backbones.hf_kinds import CONFIG, KINDS, WEIGHTS, Kind
from clipret.backbones.hub import weight_files
from clipret.backbones.hub_cache import cached_file, cached_repositories, hub_cache_folder
from clipret.backbones.open_clip_tags import CONFIG as OPEN_CLIP_CONFIG
from clipret.backbones.open_clip_tags import WEIGHTS as OPEN_CLIP_WEIGHTS
from clipret.backbones.open_clip_tags import (
    load_json,
    open_clip_folder,
    part_of,
    read_config,
    read_tags,
    whole_numbers,
    widths_of,
)
from clipret.backbones.packages import version_of
from clipret.config.models import ModelsConfig
from clipret.errors import UsageError

# Name -> image size in pixels, and the widths of image features, text features and embeddings.
_OPENAI = {
    "RN50": (224, 2048, 512, 1024),
    "RN101": (224, 2048, 512, 512),
    "RN50x4": (288, 2560, 640, 640),
    "RN50x16": (384, 3072, 768, 768),
    "RN50x64": (448, 4096, 1024, 1024),
    "ViT-B/32": (224, 768, 512, 512),
    "ViT-B/16": (224, 768, 512, 512),
    "ViT-L/14": (224, 1024, 768, 768),
    "ViT-L/14@336px": (336, 1024, 768, 768),
}
_TINY = (64, 768, 192, 128)
_UNKNOWN = {"side": None, "image": None, "text": None, "embedding": None}
_UNPUBLISHED = {"params": None, "flops": None, "figures": {}, "remark": ""}
_FIRST = ("coco-karpathy-5k", "flickr30k-karpathy-1k")


@dataclass(frozen=True)
class Model:
    """An encoder.

    name    as for --model
    file    its weights on this machine; None: they have to be downloaded
    widths  side, image, text, embedding: image size in pixels and widths; None: unknown without its weights
    """

    name: str
    family: str
    file: Path | None = None
    widths: Mapping[str, int | None] = field(default_factory=lambda: _UNKNOWN)


@dataclass(frozen=True)
class _Places:
    """The folders of downloaded weights: those from URLs, such as OpenAI's, and those from the hub."""

    addresses: Path
    hub: Path


def list_models(config: ModelsConfig, *, published: Mapping[str, Mapping]) -> dict:
    """The families and the selected models, with the best published results first.

    published  name of a model -> params, flops, figures and remark, as returned by published.zero_shot_figures

    Returns

        families  [{name, names (as for --model), installed, packages: [{name, version or None, extra}], models (number
                  of models), cached (number of models with weights on this machine)}]
        models    [{name, family, cached (path or None), side, image, text, embedding (width or None), params, flops,
                  figures, remark}]
        folders   {"openai", "hub"}: the folders of downloaded weights

    Raises UsageError when the family is unknown, or no model is selected.
    """
    if config.family is not None and config.family not in FAMILIES:
        raise UsageError(f"--family is '{config.family}'; expected one of: {', '.join(FAMILIES)}.")
    root = config.download_root
    places = _Places(root or Path("~/.cache/clip").expanduser(), root or hub_cache_folder())
    models = [model for name in FAMILIES for model in _LISTS.get(name, _list_none)(places, published)]
    shown = [_describe(model, published.get(model.name, _UNPUBLISHED)) for model in models if _is_asked(model, config)]
    if not shown:
        raise UsageError(_nothing(config))
    return {
        "families": [
            _describe_family(name, row, [model for model in models if model.family == name])
            for name, row in FAMILIES.items()
            if config.family in (None, name)
        ],
        "models": sorted(shown, key=_by_figures),
        "folders": {"openai": str(places.addresses), "hub": str(places.hub)},
    }


def _is_asked(model: Model, config: ModelsConfig) -> bool:
    return (
        config.family in (None, model.family)
        and (model.file is not None or not config.cached)
        and all(word.lower() in model.name.lower() for word in config.words)
    )


def _nothing(config: ModelsConfig) -> str:
    asked = [
        *([f"of family {config.family}"] if config.family else []),
        *([f"with '{' '.join(config.words)}' in its name"] if config.words else []),
        *(["whose weights are on this machine"] if config.cached else []),
    ]
    return f"there is no model {' and '.join(asked)}; clipret models shows all."


def _describe(model: Model, published: Mapping) -> dict:
    return {
        "name": model.name,
        "family": model.family,
        "cached": str(model.file) if model.file else None,
        **model.widths,
        **published,
    }


def _describe_family(name: str, row: Family, models: list[Model]) -> dict:
    packages = [
        {"name": package, "version": version_of(package), "extra": extra} for package, extra in row.packages().items()
    ]
    return {
        "name": name,
        "names": row.names,
        "installed": all(package["version"] for package in packages),
        "packages": packages,
        "models": len(models),
        "cached": sum(model.file is not None for model in models),
    }


def _by_figures(model: dict) -> tuple:
    """The sort key: descending t2i R@1 on COCO, then on Flickr30k; models without results come last, by name."""
    figures = (model["figures"].get(protocol, {}).get("t2i", {}).get("R@1") for protocol in _FIRST)
    return (*(-value if value is not None else math.inf for value in figures), model["name"])


def _widths(side: int, image: int, text: int, embedding: int) -> dict[str, int]:
    return {"side": side, "image": image, "text": text, "embedding": embedding}


def _list_openai(places: _Places, published: Mapping) -> Iterator[Model]:
    for name, numbers in _OPENAI.items():
        file = places.addresses / f"{name.replace('/', '-').replace('@', '-')}.pt"
        yield Model(name, "openai", file if file.is_file() else None, _widths(*numbers))
    bundled = importlib.resources.files("clipret.backbones") / "bundled" / "tiny-emoji.pt"
    yield Model("tiny-emoji", "openai", Path(str(bundled)), _widths(*_TINY))


def _list_open_clip(places: _Places, published: Mapping) -> Iterator[Model]:
    folder = open_clip_folder()
    tags = read_tags(folder) if folder else {}
    for (architecture, tag), where in tags.items():
        file = cached_file(where.repository, where.names, cache=places.hub) if where.repository else None
        if not where.repository:
            address = places.addresses / Path(where.url).name
            file = address if where.url and address.is_file() else None
        widths = widths_of(read_config(folder, architecture))
        yield Model(f"open_clip:{architecture}/{tag}", "open_clip", file, widths)
    listed = {where.repository for where in tags.values()}
    for repository, snapshot in cached_repositories(places.hub):
        config = load_json(snapshot / OPEN_CLIP_CONFIG)
        if config and repository not in listed:
            file = next(iter(weight_files(snapshot, preferred=OPEN_CLIP_WEIGHTS)), None)
            widths = widths_of(part_of(config, "model_cfg"))
            yield Model(f"open_clip:hf-hub:{repository}", "open_clip", file, widths)
    if not tags:
        names = [name for name in published if name.startswith("open_clip:") and ":hf-hub:" not in name]
        yield from (Model(name, "open_clip") for name in names)


def _list_hf(places: _Places, published: Mapping) -> Iterator[Model]:
    """Cached repositories, and models with published results."""
    cached = {}
    for repository, snapshot in cached_repositories(places.hub):
        config = load_json(snapshot / CONFIG)
        kind = KINDS.get(str(config.get("model_type")))
        if kind:
            file = next((snapshot / name for name in WEIGHTS if (snapshot / name).is_file()), None)
            cached[f"hf:{repository}"] = Model(f"hf:{repository}", "hf", file, _hf_widths(config, kind=kind))
    names = [name for name in published if name.startswith("hf:") and name not in cached]
    yield from (*cached.values(), *(Model(name, "hf") for name in names))


def _hf_widths(config: Mapping, *, kind: Kind) -> dict[str, int | None]:
    """The widths in a config.json; None for those that it leaves to the library's defaults."""
    vision, text = part_of(config, "vision_config"), part_of(config, "text_config")
    image, words = vision.get("hidden_size"), text.get("hidden_size")
    # Without a projection, features are embeddings.
    projected = image if kind.image is None else config.get("projection_dim")
    return whole_numbers({"side": vision.get("image_size"), "image": image, "text": words, "embedding": projected})


def _list_none(places: _Places, published: Mapping) -> Iterator[Model]:
    return iter(())


# Family -> its models. A family without a list has no models of fixed names.
_LISTS: dict[str, Callable[[_Places, Mapping], Iterator[Model]]] = {
    "openai": _list_openai,
    "open_clip": _list_open_clip,
    "hf": _list_hf,
}
