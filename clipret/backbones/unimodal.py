"""What encoders of images alone and of text alone have in common: a file and a row of pair.LIBRARIES a library."""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.backbones.hub import repository_folder, weight_files
from clipret.backbones.library import Side
from clipret.backbones.open_clip_sources import PICKLED, quiet
from clipret.errors import BackboneError

# Marks positions behind a caption's end. The padding of some tokenizers is also the token that ends a caption.
PADDING = -1


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a pair.

    side           an ImageSide or a TextSide without a slot
    library        it comes from, with its version
    files          its weights
    details        what else decides its features, in words
    preprocessing  how an image becomes pixels, in words; "" of text
    """

    side: Side
    library: str
    files: list[Path]
    details: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str = ""


def find_folder(name: str, *, repository: str, option: str, cache: Path | None, also: tuple[str, ...] = ()) -> tuple:
    """The folder of a model and its revision, which is "" for a folder of the user's own.

    name        a folder, or a name of the hub
    repository  that the name means on the hub, if it is no folder
    option      what --model takes for a folder
    also        as repository_folder takes it

    Raises BackboneError when there is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path, ""
    if path.is_absolute() or name.startswith((".", "~")) or path.exists():
        raise BackboneError(f"there is no folder {path}; expected the folder of a model, or its name on the hub.")
    return repository_folder(repository, option=option, cache=cache, also=also)


def require_weights(folder: Path, *, expected: str) -> list[Path]:
    """The files of a folder's weights, safetensors before pickles. Raises BackboneError where there are none."""
    files = weight_files(folder, preferred=("model.safetensors",))
    if not files:
        raise BackboneError(f"{folder} has no weights; expected {expected}.")
    return files


@contextlib.contextmanager
def calm(library: str, what: str) -> Iterator[None]:
    """Inside, the library logs and draws nothing, and whatever it raises at files it cannot use is a BackboneError.

    what  that cannot be loaded then
    """
    try:
        with quiet(), _no_bars(library):
            yield
    except BackboneError:
        raise
    except pickle.UnpicklingError:
        # torch's own advice is to run what is in it.
        raise BackboneError(PICKLED.format(what)) from None
    except ImportError as error:
        raise BackboneError(f"{library} cannot load {what}, as a package is missing: {_line(error)}.") from None
    except Exception as error:
        if "weights_only" in str(error):
            raise BackboneError(PICKLED.format(what)) from None
        # Of several libraries, at any file that is not as they expect.
        raise BackboneError(f"{library} cannot load {what}: {_line(error)}.") from None


def rgb(image: Image.Image) -> Image.Image:
    """A step of a crop; a function of a module, so that the crop can be pickled."""
    return image.convert("RGB")


def pad_ids(rows: list[list[int]]) -> torch.Tensor:
    """Ids of B captions -> (B, L) int64, L the longest of them, PADDING behind the others."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), PADDING, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)


def masked(ids: torch.Tensor, *, padding: int) -> dict[str, torch.Tensor]:
    """(B, L) ids, PADDING behind captions -> what models of transformers take: input_ids, attention_mask.

    padding  the id that the model expects there
    """
    mask = ids != PADDING
    return {"input_ids": torch.where(mask, ids, padding), "attention_mask": mask.long()}


def require_complete(missing: list[str], *, what: str) -> None:
    """Raise BackboneError where parameters of a model are not in its files, as they would be random numbers."""
    if missing:
        several = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise BackboneError(
            f"the weights of {what} lack {missing[0]}{several}, which would be random numbers; expected the files of "
            f"the whole encoder."
        )


def numbers(values: tuple[float, ...]) -> str:
    """0.5/0.5/0.5"""
    return "/".join(f"{value:.6g}" for value in values)


@contextlib.contextmanager
def _no_bars(library: str) -> Iterator[None]:
    if library == "timm":
        yield
        return
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
