"""Folders of transformers' models: on this machine, or of the hub; what is in them, and their weights."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from clipret.backbones.hf_kinds import CONFIG, KINDS, WEIGHTS, Kind
from clipret.backbones.hub import find_folder
from clipret.backbones.loading import explained, missing_weights
from clipret.backbones.sizes import require_size
from clipret.errors import BackboneError
from clipret.machine.files import read_file
from clipret.machine.records import Each, Maybe, RecordError, parse_record

PREFIX = "hf:"
_MOST_BYTES = 1 << 24
_SAFE = ("model.safetensors", "model-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin")
# Of whatever is read from a folder: no code in it is run, and nothing is fetched.
LOCAL = {"trust_remote_code": False, "local_files_only": True}


class Source(NamedTuple):
    """Where a model is.

    name      as asked for
    folder    its files
    revision  of the hub's repository; "" for other folders
    about     the content of config.json
    digest    sha256 of config.json
    """

    name: str
    folder: Path
    revision: str
    about: Mapping[str, Any]
    digest: str

    @property
    def kind(self) -> Kind:
        """The class of a source that find_source returned."""
        return KINDS[self.about["model_type"]]

    @property
    def words(self) -> str:
        """What config.json is, for the details of a backbone."""
        return f"{CONFIG} {self.digest[:12]}"


class Loaded(NamedTuple):
    """A model in float32, in eval mode.

    missing  names of its tensors that the files do not have, or not of this size
    resized  whether there are any of another size
    files    of its weights
    """

    model: nn.Module
    missing: list[str]
    resized: bool
    files: list[Path]


def find_source(name: str, *, download_root: Path | None) -> Source:
    """Where a model of images and texts is, by a name that begins with hf:. Raises BackboneError."""
    source = find_model(name.removeprefix(PREFIX), option=f"{PREFIX}FOLDER", download_root=download_root)
    _require_kind(source)
    return source._replace(name=name)


def find_model(name: str, *, option: str, download_root: Path | None) -> Source:
    """Where any model of transformers is. Raises BackboneError.

    name    a folder, or ORG/NAME of the hub
    option  what --model takes for a folder, for messages
    """
    folder, revision = find_folder(name, option=option, cache=download_root, safe=_SAFE, pickled=_PICKLED)
    path = folder / CONFIG
    try:
        content = read_file(path, most=_MOST_BYTES)
        about = parse_record(content, {"model_type": Maybe(str), "architectures": Maybe(([str], None))})
    except FileNotFoundError:
        raise BackboneError(
            f"{folder} has no {CONFIG}; expected a folder as transformers saves a model, with {CONFIG} and "
            f"{WEIGHTS[0]}, and what its side needs: tokenizer.json, preprocessor_config.json."
        ) from None
    except (OSError, RecordError) as error:
        raise _unreadable(path, error) from None
    return Source(name, folder, revision, about, hashlib.sha256(content).hexdigest())


def read_config(source: Source) -> Any:
    """The config of a model, with transformers' defaults. Raises BackboneError."""
    with explained("transformers", source.name):
        import transformers

        return transformers.AutoConfig.from_pretrained(source.folder, **LOCAL)


def _require_kind(source: Source) -> None:
    """Raise BackboneError unless a model is of a class of KINDS."""
    kind = KINDS.get(source.about.get("model_type", ""))
    named = source.about.get("architectures") or [kind.name if kind else source.about.get("model_type", "of no type")]
    if source.about.get("model_type") == "siglip2":
        raise BackboneError(
            f"{source.folder} holds a Siglip2Model, which takes a varying number of patches (NaFlex); clipret takes "
            f"images of one size: use a fixed-size checkpoint of SigLIP 2, such as google/siglip2-base-patch16-224."
        )
    if kind is None or named[0] != kind.name:
        names = ", ".join(kind.name for kind in KINDS.values())
        raise BackboneError(
            f"{source.folder / CONFIG} describes a model that clipret does not support, {named[0]}; expected one of "
            f"{names}."
        )


def load_files(kind: Any, source: Source, **settings: Any) -> Loaded:
    """The model of a folder, by its class. Raises BackboneError, but not for weights that are missing.

    kind  a class of transformers with from_pretrained
    """
    files, config = weights_of(source.folder), read_config(source)
    # The automatic classes make models by a method, the others by themselves.
    make = getattr(kind, "from_config", kind)
    require_size(lambda: make(config), config=source.folder / CONFIG, files=files)
    with explained("transformers", source.name):
        model, information = kind.from_pretrained(
            source.folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=files[0].suffix == ".safetensors",
            weights_only=True,
            **LOCAL,
            **settings,
        )
    missing, resized = missing_weights(information)
    return Loaded(model.float().eval(), missing, resized, files)


def weights_of(folder: Path) -> list[Path]:
    """The files of a model's weights that transformers reads: safetensors before pickles. Raises BackboneError."""
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise BackboneError(f"{folder} has no weights; expected {WEIGHTS[0]} beside {CONFIG}.")
    if not name.endswith(".json"):
        return [folder / name]
    path = folder / name
    try:
        index = parse_record(read_file(path, most=_MOST_BYTES), {"weight_map": Each(str)})
    except (OSError, RecordError) as error:
        raise _unreadable(path, error) from None
    files = [folder / part for part in sorted(set(index["weight_map"].values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise BackboneError(f"{path} lists {(missing or ['no files'])[0]}, which {folder} lacks; copy all parts there.")
    return files


def library_version() -> str:
    """transformers, with its version."""
    return f"transformers {importlib.metadata.version('transformers')}"


def _unreadable(path: Path, error: Exception) -> BackboneError:
    return BackboneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.")
