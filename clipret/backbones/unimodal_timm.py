"""timm's image encoders, without their classifiers: timm/NAME, timm/ORG/NAME of the hub, timm/FOLDER."""

import difflib
import functools
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose

from clipret.backbones.hub import digest_of, find_folder, weight_files
from clipret.backbones.library import ImageSide, measure_width
from clipret.backbones.loading import explained
from clipret.backbones.pixels import describe_statistics
from clipret.backbones.sizes import MOST_SIDE, require_size
from clipret.backbones.unimodal import Half, revision_of
from clipret.errors import BackboneError

_CONFIG, _OPTION = "config.json", "pair:timm/FOLDER+TEXT"
# Of the resized image; timm's own are from 0.75 on.
_LEAST_CROP = 0.1


def load_image(name: str, *, download_root: Path | None) -> Half:
    """The image half by what follows timm/. Raises BackboneError."""
    model, files, revision, config_file = _load(name, download_root=download_root)
    with explained("timm", name):
        from timm.data import create_transform, resolve_model_data_config

        config = resolve_model_data_config(model)
        steps = create_transform(**config, is_training=False).transforms
    size = config["input_size"]
    if size[0] != 3 or size[1] != size[2]:
        raise BackboneError(
            f"timm's {name} takes images of {'x'.join(map(str, size))}; expected 3 channels and a square."
        )
    if not _LEAST_CROP <= (config["crop_pct"] or 1) <= 1 / _LEAST_CROP or size[1] > MOST_SIDE:
        raise BackboneError(
            f"timm's {name} takes images of {size[1]:,} pixels, with crop_pct {config['crop_pct']:g}; expected at most "
            f"{MOST_SIDE:,} pixels, and a crop_pct near 1."
        )
    before = [kind for kind, step in enumerate(steps) if type(step).__name__ in ("ToTensor", "MaybeToTensor")]
    encode = functools.partial(_pooled, model=model, name=name)
    side = ImageSide(
        model=model,
        encode=encode,
        reference=functools.partial(_headless, model=model),
        slot=None,
        width=measure_width(encode, torch.zeros(2, *size)),
        crop=Compose([_rgb, *steps[: before[0]]]),
        side=size[1],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    architecture = (model.pretrained_cfg or {}).get("architecture") or type(model).__name__
    details = {
        "image_encoder": f"timm {architecture}{_digest(config_file)}",
        "image_pooling": getattr(model, "global_pool", None) or "the model's own",
        **revision_of("image", revision),
    }
    return Half(side, f"timm {version('timm')}", files, details, _described(config))


def _rgb(image: Image.Image) -> Image.Image:
    """A step of the crop; a function of a module, so that the crop can be pickled."""
    return image.convert("RGB")


def _load(name: str, *, download_root: Path | None) -> tuple[nn.Module, list[Path], str, Path | None]:
    """The model without its classifier, the file of its weights, the revision, and the file that describes it, None if
    timm does.
    """
    architecture, filename, config = name, None, None
    path = Path(name).expanduser()
    if path.is_dir() or "/" in name:
        folder, revision = find_folder(name, option=_OPTION, cache=download_root)
        if not (folder / _CONFIG).is_file():
            raise BackboneError(
                f"{folder} has no {_CONFIG}; expected a folder as timm saves it for the hub, with {_CONFIG} and "
                f"model.safetensors."
            )
        architecture, config = f"local-dir:{folder}", folder / _CONFIG
    else:
        repository, filename = _published(name)
        folder, revision = find_folder(repository, option=_OPTION, cache=download_root)
    files = weight_files(folder, preferred=(filename or "model.safetensors",))
    if not files:
        raise BackboneError(f"{folder} has no weights; expected model.safetensors beside {_CONFIG}.")
    with explained("timm", name):
        import timm
        from timm.models import load_state_dict

        if config:
            require_size(lambda: timm.create_model(architecture), config=config, files=files[:1])
        state = load_state_dict(str(files[0]), weights_only=True)
        # With its classifier, as then every parameter has to be in the file.
        overlay = {"source": "", "state_dict": state}
        model = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay)
        model.reset_classifier(0)
    return model.eval(), files[:1], revision, config


def _digest(config: Path | None) -> str:
    return "" if config is None else f", {_CONFIG} {digest_of([config])[:12]}"


def _published(name: str) -> tuple[str, str | None]:
    """The repository of one of timm's own names, and the file of its weights there, None for the usual one."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise BackboneError(
            f"timm has no model '{name}', and there is no such folder{hint}. Expected timm/NAME, timm/ORG/NAME of the "
            f"hub, or timm/FOLDER."
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        # There is no such tag of the model.
        config = None
    if config is None or not config.hf_hub_id:
        tags = [tagged for tagged in timm.list_pretrained() if tagged.partition(".")[0] == name.partition(".")[0]]
        offered = f"expected one of {', '.join(tags)}" if tags else "give a folder with weights, timm/FOLDER"
        raise BackboneError(f"timm has no weights of {name} on the hub; {offered}.")
    return config.hf_hub_id, config.hf_hub_filename


def _pooled(pixels: torch.Tensor, *, model: nn.Module, name: str) -> torch.Tensor:
    features = model(pixels)
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        raise BackboneError(f"timm's {name} has no pooled feature, (B, D), without its classifier; take another model.")
    return features


def _headless(pixels: torch.Tensor, *, model: nn.Module) -> torch.Tensor:
    """What goes into a classifier, in timm's other words for it."""
    return model.forward_head(model.forward_features(pixels), pre_logits=True)


def _described(config: dict) -> str:
    return (
        f"{config['input_size'][1]} px, timm {config['crop_mode']} {config['crop_pct']:.4g}, "
        f"{config['interpolation']}, {describe_statistics(config['mean'], config['std'])}"
    )
