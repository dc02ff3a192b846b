"""Joining the shards that several processes wrote into one cache."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from clipret.cache.access import explained, locked
from clipret.cache.assembling import assemble, cache_blocks, chunks, smallest
from clipret.cache.checksums import Rows, require_whole
from clipret.cache.layout import NOTES, PENDING, SIDES, CacheContents, require_same
from clipret.cache.parts import Part, shard_path, shards_folder
from clipret.cache.reading import FeatureCache
from clipret.cache.writing import CacheWriter, opened
from clipret.errors import CacheIncompleteError, CacheMismatchError


def join_shards(
    path: Path, contents: CacheContents, *, parts: list[Part], sources: dict[str, np.ndarray], merge: bool = True
) -> None:
    """Build the cache at `path` from the shards of all parts, unless it exists already.

    sources  image, text -> (N,), (M,) int64: the row that each row copies its feature from; itself for most. A row
             with another source may still be pending in its shard, and is filled here
    merge    copy the features into the cache and remove the shards; else the features stay there, and the cache refers
             to the shards

    Every row is compared with its checksum. If the process is killed, the same call completes the cache. With merge, an
    existing cache that refers to shards is replaced by one that holds its features.

    Raises CacheIncompleteError when a shard is missing or has pending rows, CacheMismatchError when a shard was made
    from other inputs or for other rows, CacheLockedError when one is being written, CacheError when a row does not
    match its checksum or the cache cannot be written.
    """
    with locked(path):
        if path.exists():
            _rejoin(path, contents, merge=merge)
        else:
            _join(path, contents, parts=parts, sources=sources, merge=merge)
        if merge:
            discard_shards(path)


def discard_shards(path: Path) -> None:
    """Remove leftover shards of the cache at `path`, if the cache exists and does not refer to them."""
    folder = shards_folder(path)
    if not folder.is_dir() or not path.exists():
        return
    cache = FeatureCache(path, allow_incomplete=True)
    if cache.complete and not cache.segmented:
        with explained(folder):
            shutil.rmtree(folder)


def _rejoin(path: Path, contents: CacheContents, *, merge: bool) -> None:
    """Check the existing cache, which is complete; with merge, copy its features in from the shards."""
    cache = FeatureCache(path)
    require_same(path, stored=cache.inputs, asked=contents.inputs)
    if merge and cache.segmented:
        blocks = ((side, *block) for side in SIDES for block in cache_blocks(cache, side))
        assemble(path, cache.contents, blocks=blocks, micro_batch=cache.micro_batch)


def _join(
    path: Path, contents: CacheContents, *, parts: list[Part], sources: dict[str, np.ndarray], merge: bool
) -> None:
    with _open_shards(path, contents, parts=parts) as shards:
        shards.require_complete(sources)
        if not merge:
            # Copies of rows of other shards. Shards that are kept must have no pending row.
            shards.fill(sources)
        assemble(
            path,
            dataclasses.replace(contents, about=shards.writers[0].about),
            blocks=shards.blocks(sources),
            micro_batch={side: smallest(writer.micro_batch(side) for writer in shards.writers) for side in SIDES},
            parts=None if merge else parts,
        )


@contextmanager
def _open_shards(path: Path, contents: CacheContents, *, parts: list[Part]) -> Iterator["_Shards"]:
    with ExitStack() as stack:
        writers = []
        for part in parts:
            shard = shard_path(path, part)
            if not shard.exists():
                raise CacheIncompleteError(
                    f"{path} is incomplete: its part {shard} is missing; complete it with: {contents.about['command']}"
                )
            stack.enter_context(locked(shard))
            writers.append(stack.enter_context(opened(shard, contents, part=part)))
        sizes = {writer.about.get("batch_size") for writer in writers}
        if len(sizes) > 1:
            raise CacheMismatchError(
                f"the shards in {shards_folder(path)} were made with batch sizes {', '.join(map(str, sorted(sizes)))}, "
                f"which changes the last bits of the features; delete the folder and extract again."
            )
        yield _Shards(path, contents, parts=parts, writers=writers)


class _Shards:
    """The open shards of all parts, read as one file."""

    def __init__(self, path: Path, contents: CacheContents, *, parts: list[Part], writers: list[CacheWriter]):
        self._path, self._command = path, contents.about["command"]
        self._parts, self.writers = parts, writers
        self._counts = contents.counts
        for side, count in self._counts.items():
            edges = [0, *(part.rows[side].stop for part in parts)]
            assert [part.rows[side].start for part in parts] == edges[:-1], "parts follow each other"
            assert edges[-1] == count, "parts leave no row out"

    def require_complete(self, sources: dict[str, np.ndarray]) -> None:
        """Raise CacheIncompleteError unless every row, or its source, has a feature."""
        todo = {}
        for side in SIDES:
            states = np.concatenate([writer.states[side] for writer in self.writers])
            todo[side] = int(np.sum(states[self._effective(side, sources, rows=range(len(states)))] == PENDING))
        if any(todo.values()):
            raise CacheIncompleteError(
                f"{self._path} is incomplete: {todo['image']} of {self._counts['image']} images and {todo['text']} of "
                f"{self._counts['text']} captions are still to do; complete it with: {self._command}"
            )

    def fill(self, sources: dict[str, np.ndarray]) -> None:
        """Fill pending rows with copies of their sources."""
        for side in SIDES:
            for writer in self.writers:
                pending = writer.pending(side)
                for chunk in chunks(len(pending)):
                    rows = pending[chunk.start : chunk.stop]
                    writer.put(side, rows, stored=self._gather(side, sources[side][rows]))
        for writer in self.writers:
            writer.sync()

    def blocks(self, sources: dict[str, np.ndarray]) -> Iterator[tuple[str, range, Rows]]:
        """All rows, as `assemble` takes them."""
        for side, count in self._counts.items():
            for rows in chunks(count):
                yield side, rows, self._gather(side, self._effective(side, sources, rows=rows))

    def _effective(self, side: str, sources: dict[str, np.ndarray], *, rows: range) -> np.ndarray:
        """(len(rows),) the row to read for each of `rows`: its source where it is pending, else itself."""
        own = np.arange(rows.start, rows.stop)
        states = np.concatenate(
            [
                writer.states[side][max(rows.start - span.start, 0) : max(rows.stop - span.start, 0)]
                for writer in self.writers
                for span in [writer.rows[side]]
            ]
        )
        return np.where(states == PENDING, sources[side][rows.start : rows.stop], own)

    def _gather(self, side: str, rows: np.ndarray) -> Rows:
        """The stored rows (n,), in any order, of any parts. Raises CacheError when one does not match its checksum."""
        starts = [part.rows[side].start for part in self._parts]
        owners = np.searchsorted(starts, rows, side="right") - 1
        arrays: dict[str, np.ndarray] = {}
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            stored = self.writers[owner].stored(side, rows[places] - starts[owner])
            shard = shard_path(self._path, self._parts[owner])
            require_whole(shard, side, rows=rows[places], stored=stored, command=self._command)
            parts = {name: getattr(stored, name) for name in ("features", "states", "checksums")} | stored.notes
            for name, values in parts.items():
                if name not in arrays:
                    arrays[name] = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
                arrays[name][places] = values
        notes = {name: arrays.pop(name) for name in NOTES[side] if name in arrays}
        return Rows(**arrays, notes=notes)
