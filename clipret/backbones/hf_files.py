"""Folders of transformers' models: on this machine, or of the hub; what is in them, and their weights."""

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from clipret.backbones import library
from clipret.backbones.hub import digest_of, repository_folder
from clipret.backbones.sizes import require_size
from clipret.errors import BackboneError, ClipretError
from clipret.machine.files import read_file
from clipret.machine.records import Each, Maybe, RecordError, parse_record

PREFIX = "hf:"
CONFIG = "config.json"
_MOST_BYTES = 1 << 24
# The names that transformers writes and reads, in the order in which it looks for them.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SAFE = ("model.safetensors", "model-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin")

CAUSAL, MASKED, PADDED = "causal", "masked", "padded"


class Kind(NamedTuple):
    """A class of transformers.

    name         of the class
    image, text  where its projections are; None: there is none
    reads        causal: a text is read up to its end. masked: padding is masked. padded: padding is read as well
    pooling      of image and text, in words
    """

    name: str
    image: str | None
    text: str
    reads: str
    pooling: str


_NAMES = ("visual_projection", "text_projection")
# What config.json calls a model -> its class.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "clip": Kind("CLIPModel", *_NAMES, CAUSAL, "class token; end of text"),
        "metaclip_2": Kind("MetaClip2Model", *_NAMES, CAUSAL, "class token; end of text"),
        "siglip": Kind("SiglipModel", None, "text_model.head", PADDED, "attention; last position"),
        "altclip": Kind("AltCLIPModel", *_NAMES, MASKED, "class token; first token, transformed"),
        "chinese_clip": Kind("ChineseCLIPModel", *_NAMES, MASKED, "class token; first token"),
        "vision-text-dual-encoder": Kind("VisionTextDualEncoderModel", *_NAMES, MASKED, "the poolers of both models"),
    }
)


class Source(NamedTuple):
    """Where a model is.

    name      as asked for
    folder    its files
    revision  of the hub's repository; "" for other folders
    kind      its class
    digest    sha256 of config.json
    """

    name: str
    folder: Path
    revision: str
    kind: Kind
    digest: str


def find_source(name: str, *, download_root: Path | None) -> Source:
    """Where a model is, by a name that begins with hf:. Raises BackboneError."""
    rest = name.removeprefix(PREFIX)
    if Path(rest).is_dir() and rest:
        folder, revision = Path(rest), ""
    else:
        folder, revision = repository_folder(
            rest, option=f"{PREFIX}FOLDER", cache=download_root, safe=_SAFE, pickled=_PICKLED
        )
    path = folder / CONFIG
    try:
        content = read_file(path, most=_MOST_BYTES)
        config = parse_record(content, {"model_type": Maybe(str), "architectures": Maybe(([str], None))})
    except FileNotFoundError:
        raise BackboneError(
            f"{folder} has no {CONFIG}; expected a folder as transformers saves a model, with {CONFIG}, {_WEIGHTS[0]}, "
            f"tokenizer.json and preprocessor_config.json."
        ) from None
    except (OSError, RecordError) as error:
        raise BackboneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    return Source(name, folder, revision, _kind_of(config, folder=folder), hashlib.sha256(content).hexdigest())


def _kind_of(config: dict[str, Any], *, folder: Path) -> Kind:
    kind = KINDS.get(config.get("model_type", ""))
    architecture = (config.get("architectures") or [kind.name if kind else config.get("model_type", "of no type")])[0]
    if config.get("model_type") == "siglip2":
        raise BackboneError(
            f"{folder} holds a Siglip2Model, which takes a varying number of patches (NaFlex); clipret takes images of "
            f"one size: use a fixed-size checkpoint of SigLIP 2, such as google/siglip2-base-patch16-224."
        )
    if kind is None or architecture != kind.name:
        names = ", ".join(kind.name for kind in KINDS.values())
        raise BackboneError(
            f"{folder / CONFIG} describes a model that clipret does not know, {architecture}; expected one of {names}."
        )
    return kind


def load_model(source: Source, *, config: Any):
    """The model in float32, in eval mode, and the sha256 of its weights; config: the model's. Raises BackboneError.

    No weight may be missing: transformers starts those at random, and only logs it.
    """
    import transformers

    kind = getattr(transformers, source.kind.name, None)
    if kind is None:
        raise BackboneError(
            f"{source.name} is a {source.kind.name}, which {library_version()} does not have; install a newer one: "
            f"pip install -U transformers"
        )
    files = weights_of(source.folder)
    require_size(lambda: kind(config), config=source.folder / CONFIG, files=files)
    with quiet(), explained(source.name), _without_code(files[0]):
        model, about = kind.from_pretrained(
            source.folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=files[0].suffix == ".safetensors",
            weights_only=True,
            local_files_only=True,
            attn_implementation="sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
        )
    _require_all(about, source=source)
    return model.float().eval(), digest_of(files)


def _require_all(about: dict, *, source: Source) -> None:
    """Raise BackboneError for weights that transformers started at random."""
    resized = sorted(entry if isinstance(entry, str) else entry[0] for entry in about["mismatched_keys"])
    missing = sorted(name for name in {*about["missing_keys"], *resized} if not name.endswith("position_ids"))
    if missing:
        sizes = " of the sizes that config.json says" if resized else ""
        raise BackboneError(
            f"the weights of {source.name} lack {len(missing)} of the tensors of a {source.kind.name}{sizes}, such as "
            f"{missing[0]}; transformers would start them at random. Expected the files of a whole {source.kind.name}."
        )


@contextlib.contextmanager
def _without_code(file: Path) -> Iterator[None]:
    """Inside, a pickle of more than tensors is refused; torch advises to run what is in it."""
    try:
        yield
    except Exception as error:
        if "weights_only" not in str(error):
            raise
        raise BackboneError(
            f"{file} is a pickle that holds more than tensors, which clipret does not run; expected {_WEIGHTS[0]}, or "
            f"a pickle of a state dict."
        ) from None


def weights_of(folder: Path) -> list[Path]:
    """The files of a model's weights that transformers reads: safetensors before pickles. Raises BackboneError."""
    name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise BackboneError(f"{folder} has no weights; expected {_WEIGHTS[0]} beside {CONFIG}.")
    if not name.endswith(".json"):
        return [folder / name]
    path = folder / name
    try:
        index = parse_record(read_file(path, most=_MOST_BYTES), {"weight_map": Each(str)})
    except (OSError, RecordError) as error:
        raise BackboneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    files = [folder / part for part in sorted(set(index["weight_map"].values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise BackboneError(f"{path} lists {(missing or ['no files'])[0]}, which {folder} lacks; copy all parts there.")
    return files


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing is logged or warned of, and transformers draws no progress."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with library.quiet():
            yield
    finally:
        if drawn:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Inside, whatever transformers raises at a file that it cannot use becomes a BackboneError."""
    try:
        yield
    except ClipretError:
        raise
    except Exception as error:
        # Of transformers, tokenizers, safetensors and torch, which have little in common.
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise BackboneError(f"transformers cannot load {name}: {reason}.") from None


def library_version() -> str:
    return f"transformers {importlib.metadata.version('transformers')}"
