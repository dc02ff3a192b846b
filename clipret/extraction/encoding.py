"""Batches -> features.

On the CPU every worker process decodes and encodes whole batches on one thread: two processes with one thread are
faster than one process with two, only features are sent between processes, and the bits of a batch do not depend on
the process. On a GPU, worker processes decode, and this process launches one batch ahead.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from clipret.backbones.protocol import Backbone
from clipret.errors import BackboneError, ClipretError, DatasetError
from clipret.extraction.loader import from_workers
from clipret.extraction.planning import ImageBatch, TextBatch
from clipret.images import ImageReader, decode_on_device, of_single_colour
from clipret.machine.rows import TOGETHER, among_others
from clipret.machine.workers import ReadWatch

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Tap(NamedTuple):
    """Of a side whose tokens are kept: the widths D of its features and W of its tokens."""

    width: int
    token_width: int


class Encoded(NamedTuple):
    """The result of a batch.

    rows           (B,) int64
    features       (B, D) float32, in host memory
    micro_batch    rows encoded at once after running out of memory; 0: all B
    problems       position in the batch -> why that image has no feature
    counts         (B,) tokens before truncation; None for images
    digests        (B, 32) uint8, sha256 of the image files, zeros where they were not read; None for captions
    single_colour  (B,) bool, whether all pixels are equal, or would be without the resize; also of images that cannot
                   be read; None for captions
    tokens         (B, L, W) float32, the input of the last block; None: they are not asked for
    """

    rows: np.ndarray
    features: np.ndarray
    micro_batch: int
    problems: dict[int, str]
    counts: np.ndarray | None = None
    digests: np.ndarray | None = None
    single_colour: np.ndarray | None = None
    tokens: np.ndarray | None = None

    @classmethod
    def of(cls, rows: np.ndarray, encoded: np.ndarray, micro_batch: int, *, tap: Tap | None, **notes) -> "Encoded":
        """encoded: (B, D) features, or with a tap (B, D + L W), the tokens behind them."""
        if tap is None:
            return cls(rows, encoded, micro_batch, **notes)
        tokens = encoded[:, tap.width :].reshape(len(encoded), -1, tap.token_width)
        return cls(rows, encoded[:, : tap.width], micro_batch, tokens=tokens, **notes)


class _Decoded(NamedTuple):
    """Inputs of a batch for the device: pixels, or files that it decodes, or token ids."""

    rows: np.ndarray
    inputs: object
    problems: dict[int, str]
    counts: np.ndarray | None = None
    digests: np.ndarray | None = None
    plain: np.ndarray | None = None


@dataclass
class Encoder:
    """Encodes batches in this process and its workers.

    backbone      the frozen encoder
    reader        image rows -> pixels
    workers       processes that decode and, on the CPU, encode; 0: this process does everything
    watch         which image every worker is reading
    read_timeout  seconds after which a worker that is still reading one file counts as hanging
    taps          image, text -> its widths, for sides whose tokens are kept
    busy          seconds of the current phase in which the device was computing
    """

    backbone: Backbone
    reader: ImageReader
    workers: int
    watch: ReadWatch
    read_timeout: float
    taps: Mapping[str, Tap] = field(default_factory=dict)
    busy: float = field(default=0.0, init=False)
    _began: float = field(default=0.0, init=False)

    @property
    def on_cpu(self) -> bool:
        """Whether workers encode too."""
        return self.backbone.device.type == "cpu"

    def images(self, batches: Iterable[ImageBatch]) -> Iterator[Encoded]:
        """Read and encode; the results may come in another order than the batches.

        Raises DatasetError when a worker hangs, BackboneError when not even one image fits into memory.
        """
        encode, tap = self._encode("image"), self.taps.get("image")
        if self.on_cpu:
            return self._from_workers(_EncodedImages(self.reader, encode, tap=tap), batches)
        decoded = self._from_workers(_DecodedImages(self.reader), batches)
        return self._on_device(decoded, encode, tap=tap)

    def texts(self, batches: Iterable[TextBatch]) -> Iterator[Encoded]:
        """Encode; the results may come in another order than the batches. Raises BackboneError as `images` does."""
        encode, tap = self._encode("text"), self.taps.get("text")
        if self.on_cpu:
            return self._from_workers(_EncodedTexts(self.backbone.pad, encode, tap=tap), batches)
        padded = (_Decoded(batch.rows, self.backbone.pad(batch.tokens), {}, batch.counts) for batch in batches)
        return self._on_device(padded, encode, tap=tap)

    def _encode(self, side: str) -> Callable[[torch.Tensor], torch.Tensor]:
        encode = self.backbone.encode_image if side == "image" else self.backbone.encode_text
        return partial(encode, tokens=True) if side in self.taps else encode

    @property
    def waiting_share(self) -> float:
        """Share of the current phase in which the GPU was idle; 0 without a GPU."""
        spent = time.perf_counter() - self._began if self._began else 0.0
        return max(0.0, 1 - self.busy / spent) if spent else 0.0

    def _from_workers(self, dataset: Dataset, batches: Iterable) -> Iterator:
        on_gpu = self.backbone.device.type == "cuda"
        return from_workers(dataset, batches, workers=self.workers, pin=on_gpu, on_silence=self._require_progress)

    def _require_progress(self) -> None:
        for row, seconds in self.watch.stuck(self.read_timeout):
            raise DatasetError(
                f"reading {self.reader.files[row]} has taken {seconds:.0f} s, more than --read-timeout "
                f"{self.read_timeout:g}; check that the disk of {self.reader.root} responds. Finished rows are kept; "
                f"run the same command again to continue."
            )

    def _on_device(self, batches: Iterable[_Decoded], encode: Callable, *, tap: Tap | None) -> Iterator[Encoded]:
        """Encode one batch ahead: while the device computes, the next batch is read and the previous one is yielded."""
        encode, running = _MemoryAware(encode), None
        self._began, self.busy = time.perf_counter(), 0.0
        for batch in batches:
            inputs, problems = self._moved_to_device(batch)
            launched = _Launched(batch._replace(problems=problems), inputs, encode=encode, tap=tap)
            if running:
                yield self._finished(running)
            running = launched
        if running:
            yield self._finished(running)

    def _finished(self, launched: "_Launched") -> Encoded:
        result, seconds = launched.finish()
        self.busy += seconds
        return result

    def _moved_to_device(self, batch: _Decoded) -> tuple[torch.Tensor, dict[int, str]]:
        """Inputs on the device, perhaps still being copied, and the problems so far."""
        device = self.backbone.device
        if isinstance(batch.inputs, torch.Tensor):
            return batch.inputs.to(device, non_blocking=True), batch.problems
        try:
            pixels, problems = decode_on_device(batch.inputs, reader=self.reader, device=device)
        except torch.OutOfMemoryError:
            raise BackboneError(
                "out of GPU memory while decoding a batch of images; use --decode exact, or a smaller --batch-size "
                "with another --out. Finished rows are kept."
            ) from None
        return pixels, batch.problems | problems


class _Launched:
    """A batch that the device is computing; its features are then copied to host memory."""

    def __init__(self, batch: _Decoded, inputs: torch.Tensor, *, encode: "_MemoryAware", tap: Tap | None):
        self._batch, self._clock, self._tap = batch, _Clock(inputs.device), tap
        self._features = _copied_to_host(encode(inputs).float())
        self._single_colour = None if batch.digests is None else _copied_to_host(of_single_colour(inputs))
        self._clock.stop()
        self._micro_batch = encode.micro_batch

    def finish(self) -> tuple[Encoded, float]:
        """Wait for the device; return the result and the seconds that the device took."""
        seconds, batch = self._clock.seconds(), self._batch
        encoded = Encoded.of(
            batch.rows,
            self._features.numpy(),
            self._micro_batch,
            tap=self._tap,
            problems=batch.problems,
            counts=batch.counts,
            digests=batch.digests,
            single_colour=None if self._single_colour is None else self._single_colour.numpy() | batch.plain,
        )
        return encoded, seconds


def _copied_to_host(values: torch.Tensor) -> torch.Tensor:
    """The values in pinned memory, copied when the device reaches this point; other memory would block here."""
    host = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
    return host.copy_(values, non_blocking=True)


class _Clock:
    """Seconds between creation and `stop`, measured on the GPU where there is one."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks = [self._mark()]

    def stop(self) -> None:
        """Everything is launched."""
        self._marks.append(self._mark())

    def seconds(self) -> float:
        """Wait for the GPU and return the seconds."""
        first, last = self._marks
        if self._stream is None:
            return last - first
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def _mark(self):
        if self._stream is None:
            return time.perf_counter()
        # On this device's stream: torch's current stream may be of another GPU.
        return self._stream.record_event(torch.cuda.Event(enable_timing=True))


class _MemoryAware:
    """Encodes a batch whole or, after running out of memory, in halves, quarters ...

    micro_batch  rows at once, the smallest number so far; 0: all
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]):
        self._encode = encode
        self.micro_batch = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, D). Raises BackboneError when not even one row fits."""
        while True:
            size = self.micro_batch or max(len(inputs), TOGETHER)
            try:
                if not self.micro_batch:
                    return among_others(self._encode, inputs)
                return torch.cat([self._encode(part) for part in inputs.split(size)])
            except RuntimeError as error:
                if not any(text in str(error) for text in _OUT_OF_MEMORY):
                    raise
                if size == 1:
                    raise BackboneError(
                        "out of memory while encoding a single image or caption; free memory, use a smaller model "
                        "or fewer --workers. Finished rows are kept."
                    ) from None
            self.micro_batch = -(-min(size, len(inputs)) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class _EncodedImages(Dataset):
    """Batches of image rows, read and encoded in a worker, or in this process without workers."""

    def __init__(self, reader: ImageReader, encode: Callable, *, tap: Tap | None):
        self._reader, self._encode, self._tap = reader, _MemoryAware(encode), tap

    def __getitem__(self, batch: ImageBatch) -> Encoded | ClipretError:
        pixels, problems, digests, plain = _read(self._reader.read, batch)
        colours = of_single_colour(pixels).numpy() | plain
        notes = {"problems": problems, "digests": digests, "single_colour": colours}
        return _caught(self._encode, pixels, rows=batch.rows, tap=self._tap, notes=notes)


class _EncodedTexts(Dataset):
    """Batches of captions, encoded."""

    def __init__(self, pad: Callable, encode: Callable, *, tap: Tap | None):
        self._pad, self._encode, self._tap = pad, _MemoryAware(encode), tap

    def __getitem__(self, batch: TextBatch) -> Encoded | ClipretError:
        notes = {"problems": {}, "counts": batch.counts}
        return _caught(self._encode, self._pad(batch.tokens), rows=batch.rows, tap=self._tap, notes=notes)


class _DecodedImages(Dataset):
    """Batches of image rows, read for a device."""

    def __init__(self, reader: ImageReader):
        self._read = reader.read_encoded if reader.fast else reader.read

    def __getitem__(self, batch: ImageBatch) -> _Decoded:
        inputs, problems, digests, plain = _read(self._read, batch)
        return _Decoded(batch.rows, inputs, problems, digests=digests, plain=plain)


def _read(read: Callable, batch: ImageBatch) -> tuple[object, dict[int, str], np.ndarray, np.ndarray]:
    """`read` of the rows to do, at their positions in the batch."""
    return read(np.where(batch.todo, batch.rows, -1))


def _caught(
    encode: _MemoryAware, inputs: torch.Tensor, *, rows: np.ndarray, tap: Tap | None, notes: dict
) -> Encoded | ClipretError:
    # An error for the user is returned as a value: if raised here, DataLoader would wrap it into a traceback.
    try:
        features = encode(inputs)
    except ClipretError as error:
        return error
    return Encoded.of(rows, features.float().numpy(), encode.micro_batch, tap=tap, **notes)
