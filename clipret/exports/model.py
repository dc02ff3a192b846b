"""Encoder and head as one: images and captions -> embeddings, with the values that extraction and eval have."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from clipret.cache import FeatureCache
from clipret.errors import UsageError
from clipret.evaluation.inputs import Source, find_source
from clipret.exports.encoder import CacheEncoder, encoder_of, require_encoder
from clipret.exports.head import LoadedHead, open_head
from clipret.machine.devices import choose_device
from clipret.retrieval.baseline import baseline_name

# Captions that are sorted by length together: so many batches.
_BLOCK_BATCHES = 64
ImageLike = str | Path | bytes | Image.Image | np.ndarray
Embeddings = np.ndarray | torch.Tensor
Item = TypeVar("Item")


class EmbeddingModel:
    """The encoder of a cache with a head behind it. The encoder is loaded when something is first embedded.

    cache   the FeatureCache that says which encoder, and how it reads images and captions
    head    the LoadedHead
    device  cpu or cuda
    """

    def __init__(
        self,
        cache: FeatureCache,
        head: LoadedHead,
        *,
        load: Callable[[], CacheEncoder],
        device: str,
        batch_size: int | None = None,
    ):
        """load: the encoder. batch_size: images or captions encoded at a time; None: as the cache's extraction had it.

        Raises UsageError for a batch size that is no whole number from 1 on.
        """
        if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
            raise UsageError(f"batch_size is {batch_size!r}; expected a whole number, 1 or more.")
        self.cache, self.head, self.device = cache, head, device
        self._load, self._batch_size, self._encoder = load, batch_size or cache.about["batch_size"], None
        self._width: int | None = None
        head.head.to(device)

    def embed_images(self, images: Iterable[ImageLike], *, as_torch: bool = False) -> Embeddings:
        """B images -> (B, E) float32 of norm 1, in their order.

        images    paths, PIL images, bytes of image files and pixels (H, W, 3) uint8 in RGB, mixed as you like; read as
                  extraction reads its files, a batch at a time
        as_torch  return a tensor on the model's device, and not a numpy array

        Raises DatasetError, which names the image, when one cannot be read; UsageError when `images` is one image and
        no list; BackboneError when the encoder cannot be loaded.
        """
        _require_several(images, "embed_images", one=(str, Path, bytes, Image.Image))
        return self._collected("image", self._image_batches(images), as_torch=as_torch)

    def embed_texts(self, texts: Iterable[str], *, as_torch: bool = False) -> Embeddings:
        """B captions -> (B, E) float32 of norm 1, in their order; cleaned and prompted as the cache's captions were.

        as_torch  return a tensor on the model's device, and not a numpy array

        Raises UsageError when one of them is no string, or `texts` is one and no list; BackboneError when the encoder
        cannot be loaded.
        """
        _require_several(texts, "embed_texts", one=(str, bytes))
        return self._collected("text", self._text_batches(texts), as_torch=as_torch)

    @property
    def encoder(self) -> CacheEncoder:
        """The encoder, loaded now if it is not yet. Raises BackboneError, and UsageError when it is another one."""
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    @property
    def loaded(self) -> bool:
        """Whether the encoder is."""
        return self._encoder is not None

    @property
    def name(self) -> str:
        """The model's, as the cache has it."""
        return self.cache.about["model"]

    @property
    def width(self) -> int:
        """E, of the embeddings."""
        if self._width is None:
            # Any head can be asked, one of the user's own too.
            row = torch.ones(1, self.cache.width("text"), device=self.device)
            self._width = self.head.embed_texts(row).shape[1]
        return self._width

    def __repr__(self) -> str:
        head = self.head.path or baseline_name(self.cache)
        state = "loaded" if self.loaded else "not loaded yet"
        return f"<clipret model {self.name} with head {head}: width {self.width}, {self.device}, {state}>"

    def _image_batches(self, images: Iterable[ImageLike]) -> Iterator[torch.Tensor]:
        place = 0
        for batch in _batches(images, self._batch_size):
            pixels = [self.encoder.pixels(image, place=place + number) for number, image in enumerate(batch)]
            place += len(batch)
            yield self.encoder.pixel_features(pixels)

    def _text_batches(self, texts: Iterable[str]) -> Iterator[torch.Tensor]:
        place = 0
        for block in _batches(texts, self._batch_size * _BLOCK_BATCHES):
            for number, text in enumerate(block):
                if not isinstance(text, str):
                    raise UsageError(f"text {place + number} is {type(text).__name__}; expected a string.")
            place += len(block)
            yield self.encoder.text_features(block, batch_size=self._batch_size)

    def _collected(self, side: str, batches: Iterator[torch.Tensor], *, as_torch: bool) -> Embeddings:
        function = self.head.embed_images if side == "image" else self.head.embed_texts
        embedded = [torch.empty(0, self.width, device=self.device)]
        for features in batches:
            # Rounded as the cache rounds: what a trained head saw.
            embedded.append(function(self.encoder.stored(features.float())))
        embeddings = torch.cat(embedded)
        return embeddings if as_torch else embeddings.cpu().numpy()


def open_run(
    run: Path | str,
    *,
    cache: Path | str | None = None,
    model: Path | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    download_root: Path | str | None = None,
) -> EmbeddingModel:
    """The encoder that a run's features came from, with the run's head behind it.

    run            a run's folder, or its head.safetensors
    cache          in the place of the cache that the run was trained on, if it was moved
    model          name or path of the encoder, if it is no longer where it was
    device         auto, cpu or cuda
    batch_size     images or captions encoded at a time; None: as the extraction had it
    download_root  where downloaded weights are kept

    This reads the head and opens the cache; the encoder is loaded at first use.

    Raises RunError when there is no such run, CacheError, CacheMismatchError when the cache is not the run's,
    HeadError, UsageError for cuda without a GPU or a head of untrusted code, and ExportError for imported features.
    """
    places = find_source(cache=cache and Path(cache), head=Path(run), zero_shot=False, runs_dir=Path())
    settings = {"model": model, "device": device, "batch_size": batch_size, "download_root": download_root}
    return open_models([places], **settings)[0]


def zero_shot(
    cache: Path | str,
    *,
    model: Path | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    download_root: Path | str | None = None,
) -> EmbeddingModel:
    """The encoder of a cache with its own head; of a pair that was never aligned, the solution in closed form.

    Settings are those of open_run, as are the errors.
    """
    places = Source(Path(cache))
    settings = {"model": model, "device": device, "batch_size": batch_size, "download_root": download_root}
    return open_models([places], **settings)[0]


def open_models(
    places: Sequence[Source],
    *,
    model: Path | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    download_root: Path | str | None = None,
) -> list[EmbeddingModel]:
    """A model for each source, all of one cache, that share its encoder. Settings and errors are those of open_run."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {device!r}; expected auto, cpu or cuda.")
    device = choose_device(device)
    opened = [open_head(place) for place in places]
    require_encoder(opened[0][0])

    @functools.cache
    def encoder() -> CacheEncoder:
        return encoder_of(
            opened[0][0],
            model=model and str(model),
            device=device,
            download_root=download_root and Path(download_root),
        )

    return [
        EmbeddingModel(
            cache,
            LoadedHead(head.head.behind_blocks(), path=head.path),
            load=lambda trained=head.head: encoder().with_blocks_of(trained),
            device=device,
            batch_size=batch_size,
        )
        for cache, head in opened
    ]


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _require_several(items: Iterable, method: str, *, one: tuple[type, ...]) -> None:
    """Raise UsageError for a single item: a string would be read as a list of letters."""
    if isinstance(items, one) or not isinstance(items, Iterable):
        raise UsageError(f"{method} takes a list, and this is {type(items).__name__}; put it in one: {method}([...]).")
