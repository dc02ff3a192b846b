"""One process's share of an extraction: encode the pending rows and write them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from clipret.cache import PENDING, CacheWriter
from clipret.cache.taps import StoredTokens, store_tokens
from clipret.errors import BackboneError
from clipret.extraction.encoding import Encoded, Encoder
from clipret.extraction.planning import Plan
from clipret.images import NOT_FOUND
from clipret.machine.progress import Progress, ProgressCallback

# Batches that may wait for the disk before encoding pauses.
_WAITING_WRITES = 4
# Images, and captions, compared with the encoder's own output before anything is written.
_COMPARED_IMAGES, _COMPARED_TEXTS = 2, 4
# Report when the device waits for images for more than this share of the time.
_REPORTED_SHARE = 0.05


@dataclass
class Job:
    """The rows to encode, and where their features are written.

    plan         the batches
    encoder      encodes them
    writer       of the cache, or of this process's shard
    texts        all captions, with their prompt
    missing      (N,) bool, images without a file
    on_progress  called after every batch
    on_problems  called with {image row: reason} of all unusable images after every batch; raises to stop
    label        shown beside progress: which of several processes reports it
    """

    plan: Plan
    encoder: Encoder
    writer: CacheWriter
    texts: list[str]
    missing: np.ndarray
    on_progress: ProgressCallback
    on_problems: Callable[[dict[int, str]], None]
    label: dict[str, str]

    def run(self) -> None:
        """Compare with the encoder's own output, then encode and write all pending rows.

        Raises BackboneError when features times projection differ from that output, or a feature does not fit the
        cache's type; DatasetError from the encoder and from on_problems; CacheError when the disk refuses.
        """
        self._require_exact_images()
        self._require_exact_texts()
        self._images()
        self._texts()

    def _images(self) -> None:
        batches = self.plan.image_batches(self.writer.rows["image"], pending=self._pending("image"))
        problems = dict(self.writer.problems)
        counted = self._counter("image")
        copied = self._copied("image")
        with self._written("image") as write, closing(self.encoder.images(batches)) as results:
            for result in results:
                reasons = result.problems | {
                    int(place): NOT_FOUND for place in np.flatnonzero(self.missing[result.rows])
                }
                features = self._stored(result, side="image", unusable=list(reasons))
                write(
                    self.writer.write_images,
                    result.rows,
                    features=features,
                    problems=reasons,
                    digests=result.digests,
                    single_colour=result.single_colour,
                    tap=self._stored_tokens(result, side="image"),
                )
                self._note(result, "image")
                for place, reason in reasons.items():
                    row = int(result.rows[place])
                    problems |= dict.fromkeys([row, *copied.get(row, ())], reason)
                self._report("images", counted(result.rows), detail=self._image_detail(problems))
                self.on_problems(problems)

    def _texts(self) -> None:
        batches = self.plan.text_batches(
            self.writer.rows["text"],
            pending=self._pending("text"),
            texts=self.texts,
            tokenize=self.encoder.backbone.tokenize,
        )
        counted = self._counter("text")
        with self._written("text") as write, closing(self.encoder.texts(batches)) as results:
            for result in results:
                features = self._stored(result, side="text")
                tap = self._stored_tokens(result, side="text")
                write(self.writer.write_texts, result.rows, features=features, tokens=result.counts, tap=tap)
                self._note(result, "text")
                self._report("captions", counted(result.rows))

    @contextmanager
    def _written(self, side: str) -> Iterator[Callable]:
        """A function that runs its first argument on a background thread, in order; at the end, all is on the disk.

        An error of a background write is raised by the next call of that function, or at the end.
        """
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipret-write") as thread:

            def write(method: Callable, rows: np.ndarray, **values) -> None:
                while len(waiting) >= _WAITING_WRITES or (waiting and waiting[0].done()):
                    waiting.popleft().result()
                waiting.append(thread.submit(method, rows, **values))

            yield write
            for future in waiting:
                future.result()
        for rows, sources in self.plan.copies(side, self.writer.rows[side], pending=self._pending(side)):
            self.writer.copy_rows(side, rows, sources)
        self.writer.sync()

    def _note(self, result: Encoded, side: str) -> None:
        if result.micro_batch:
            self.writer.note_micro_batch(side, result.micro_batch)

    def _pending(self, side: str) -> np.ndarray:
        """(N,) bool: the rows of this process that are pending now."""
        pending = np.zeros(len(self.plan.sources[side]), dtype=bool)
        pending[self.writer.pending(side)] = True
        return pending

    def _counter(self, side: str) -> Callable[[np.ndarray], tuple[int, int]]:
        """A function: newly encoded rows -> rows done so far and rows in all, both including copies."""
        weights = self.plan.weights(side, self.writer.rows[side])
        pending = self._pending(side)
        total, done = int(weights.sum()), int(weights[~pending].sum())

        def count(rows: np.ndarray) -> tuple[int, int]:
            nonlocal done
            fresh = rows[pending[rows]]
            pending[fresh] = False
            done += int(weights[fresh].sum())
            return done, total

        return count

    def _copied(self, side: str) -> dict[int, list[int]]:
        """Row -> the other rows of this process that get its feature, for rows that have such copies."""
        own = self.writer.rows[side]
        rows = np.arange(own.start, own.stop)
        sources = self.plan.sources[side][own.start : own.stop]
        copies: dict[int, list[int]] = {}
        for row, source in zip(rows[sources != rows].tolist(), sources[sources != rows].tolist(), strict=True):
            copies.setdefault(source, []).append(row)
        return copies

    def _report(self, phase: str, counts: tuple[int, int], *, detail: dict | None = None) -> None:
        self.on_progress(Progress(phase, *counts, self.label | (detail or {})))

    def _image_detail(self, problems: dict[int, str]) -> dict:
        detail = {"unusable": len(problems)} if problems else {}
        share = self.encoder.waiting_share
        return detail | ({"waiting for images": f"{share:.0%}"} if share > _REPORTED_SHARE else {})

    def _require_exact_images(self) -> None:
        """Compare the first pending images that can be read."""
        rows = [row for row in self.writer.pending("image") if not self.missing[row]]
        reader, backbone = self.encoder.reader, self.encoder.backbone
        for start in range(0, len(rows), _COMPARED_IMAGES):
            pixels, problems, *_ = reader.read(np.array(rows[start : start + _COMPARED_IMAGES]))
            readable = [place for place in range(len(pixels)) if place not in problems]
            if readable:
                inputs = pixels[readable]
                backbone.require_exact("image", inputs=inputs, features=backbone.encode_image(inputs))
                return

    def _require_exact_texts(self) -> None:
        rows = self.writer.pending("text")[:_COMPARED_TEXTS]
        if len(rows):
            backbone = self.encoder.backbone
            tokens, _ = backbone.tokenize([self.texts[row] for row in rows])
            inputs = backbone.pad(tokens)
            backbone.require_exact("text", inputs=inputs, features=backbone.encode_text(inputs))

    def _stored(self, result: Encoded, *, side: str, unusable: Iterable[int] = ()) -> np.ndarray:
        """The features in the cache's type, zeros where unusable; raises BackboneError when they do not fit it."""
        with np.errstate(over="ignore"):
            features = result.features.astype(self.writer.dtype)
        features[list(unusable)] = 0
        fresh = self._is_pending(side, result.rows)
        broken = np.flatnonzero(fresh & ~np.isfinite(features).all(axis=1))
        if len(broken):
            raise BackboneError(
                f"the feature of {side} row {result.rows[broken[0]]} is not finite as {self.writer.dtype}; "
                f"extract with --dtype float32 to another --out, or check the model's weights."
            )
        return features

    def _stored_tokens(self, result: Encoded, *, side: str) -> StoredTokens | None:
        """The tokens in the cache's type; raises BackboneError when they do not fit it."""
        if result.tokens is None:
            return None
        tap = self.writer.taps[side]
        stored = store_tokens(result.tokens, lengths=tap.lengths(result.rows), dtype=tap.dtype)
        if not stored.finite():
            raise BackboneError(
                f"the tokens of {side} row {result.rows[0]}, or of a row encoded with it, are not finite as "
                f"{tap.dtype}; extract with --tap-dtype int8 to another --out, or check the model's weights."
            )
        return stored

    def _is_pending(self, side: str, rows: np.ndarray) -> np.ndarray:
        return self.writer.states[side][rows - self.writer.rows[side].start] == PENDING
