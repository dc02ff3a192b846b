"""A table beside ready-made features, with a row for each row of them: which images and captions they are of."""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipret.cache.importing.arrow import batches, columns_of
from clipret.cache.importing.columns import split_codes
from clipret.cache.importing.spools import TextSpool
from clipret.cache.texts import PackedTexts
from clipret.errors import DatasetError

# Our name of a column -> what it is called where --columns names none. Ids are read where they are named only: many
# tables number their rows by them, not their images.
_USUAL = {"image": ("image_path", "image", "file_name"), "caption": ("caption", "text"), "split": ("split",)}
_KINDS = {
    "image": ("text", "numbers"),
    "caption": ("text", "texts"),
    "split": ("text",),
    "id": ("text", "numbers"),
}


_AHEAD = 6


@dataclass(frozen=True)
class Table:
    """What a table says of `rows` rows.

    starts    (rows,) bool: whether the row is the first of an image; all are where rows are not folded
    captions  (rows,) how many captions a row has
    files     of the images, ids of the images, texts: of all captions; None: the table has none
    codes     (images,) uint8, of their splits; None: the table has none, or they are not asked for
    """

    rows: int
    starts: np.ndarray
    captions: np.ndarray
    files: PackedTexts | None
    ids: PackedTexts | None
    texts: PackedTexts | None
    codes: np.ndarray | None


def read_table(
    paths: list[Path], named: Mapping[str, tuple[str, ...]], *, splits: bool, fold: bool, folder: Path
) -> Table:
    """Read the files of a table one after the other.

    named   our name of a column -> the table's, for those that --columns names
    splits  whether its splits are asked for
    fold    whether rows with the same image, one after the other, are one image
    folder  where texts wait

    Raises DatasetError when a file cannot be read, lacks a column that was named, or contradicts itself.
    """
    with ThreadPoolExecutor(1) as pool:
        reader = _Reader(_choose(paths[0], named, splits=splits), fold=fold, folder=folder, pool=pool)
        for path in paths:
            missing = [name for name in reader.columns.values() if name not in columns_of(path)]
            if missing:
                raise DatasetError(f"{path} has no column {missing[0]}, which {paths[0]} has.")
            first = 0
            for batch in batches(path, list(reader.columns.values())):
                if batch.num_rows:
                    reader.read(batch, where=f"{path}, row", first=first)
                    first += batch.num_rows
        return reader.table()


def _choose(path: Path, named: Mapping[str, tuple[str, ...]], *, splits: bool) -> dict[str, str]:
    """Our name of a column -> the table's, of those that are read."""
    kinds, columns = columns_of(path), {}
    for ours, allowed in _KINDS.items():
        if ours == "split" and not splits:
            continue
        names = named.get(ours) or tuple(name for name in _USUAL.get(ours, ()) if name in kinds)[:1]
        for name in names:
            if name not in kinds:
                raise DatasetError(f"{path} has no column `{name}`; its columns are: {', '.join(kinds)}.")
            if kinds[name] not in allowed:
                words = {"text": "text", "texts": "lists of texts", "numbers": "whole numbers"}
                expected = " or ".join(words[kind] for kind in allowed)
                raise DatasetError(
                    f"{path}: column `{name}` holds {kinds[name]}; expected {expected}, as the {ours}. Name another "
                    f"with --columns {ours}=NAME"
                )
            columns[ours] = name
    if not columns and not any(name in kinds for names in _USUAL.values() for name in names):
        usual = ", ".join(f"`{name}`" for names in _USUAL.values() for name in names)
        raise DatasetError(
            f"{path} has none of the columns {usual}; its columns are: {', '.join(kinds)}. Say which they are with "
            f"--columns image=NAME,caption=NAME"
        )
    return columns


class _Reader:
    """columns: our name -> the table's."""

    def __init__(self, columns: dict[str, str], *, fold: bool, folder: Path, pool: ThreadPoolExecutor):
        self.columns, self._fold = columns, fold
        self._spools = {
            name: TextSpool(folder, unique=name != "caption") for name in ("image", "id", "caption") if name in columns
        }
        # Decoding a batch and storing the one before take about as long.
        self._pool, self._waiting = pool, deque()
        self._starts, self._captions, self._codes, self._last = [], [], [], {}

    def read(self, batch, *, where: str, first: int) -> None:
        columns = dict(zip(self.columns, batch.columns, strict=True))
        starts = np.ones(batch.num_rows, dtype=bool)
        captions = np.ones(batch.num_rows, dtype=np.int32)
        if "image" in columns:
            files = _strings(columns["image"])
            starts = self._first_of_images(files) if self._fold else starts
            self._spool("image", _first(files, starts))
        if "id" in columns:
            ids = _strings(columns["id"])
            self._require_same("id", ids.to_pylist() if self._fold else [], starts, where=where, first=first)
            self._spool("id", _first(ids, starts))
        if "split" in columns:
            codes = _codes(columns["split"], where=where, first=first)
            self._require_same("split", codes, starts, where=where, first=first)
            self._codes.append(codes[starts])
        if "caption" in columns:
            captions = self._read_captions(columns["caption"], captions)
        self._starts.append(starts)
        self._captions.append(captions)

    def table(self) -> Table:
        while self._waiting:
            self._waiting.popleft().result()
        texts = {name: spool.texts for name, spool in self._spools.items()}
        starts = np.concatenate(self._starts) if self._starts else np.zeros(0, dtype=bool)
        return Table(
            rows=len(starts),
            starts=starts,
            captions=np.concatenate(self._captions) if self._captions else np.zeros(0, dtype=np.int32),
            files=texts.get("image"),
            ids=texts.get("id"),
            texts=texts.get("caption"),
            codes=np.concatenate(self._codes) if self._codes else None,
        )

    def _first_of_images(self, files) -> np.ndarray:
        import pyarrow.compute as pc

        starts = np.ones(len(files), dtype=bool)
        starts[1:] = pc.not_equal(files[1:], files[:-1]).to_numpy(zero_copy_only=False)
        # Rows without a path are images of their own.
        starts |= pc.equal(pc.binary_length(files), 0).to_numpy(zero_copy_only=False)
        starts[0] = files[0].as_py() != self._last.get("image") or not files[0].as_py()
        self._last["image"] = files[-1].as_py()
        return starts

    def _require_same(self, what: str, values: Sequence, starts: np.ndarray, *, where: str, first: int) -> None:
        """Raise DatasetError when rows of one image have different ids or splits."""
        before, self._last[what] = self._last.get(what), values[-1] if len(values) else None
        for row in np.flatnonzero(~starts).tolist():
            if values[row] != (values[row - 1] if row else before):
                raise DatasetError(
                    f"{where} {first + row} has another {what} than the row before, which is of the same image; fix "
                    f"it, or keep every row as an image of its own with --no-fold."
                )

    def _read_captions(self, column, counts: np.ndarray) -> np.ndarray:
        import pyarrow.compute as pc
        import pyarrow.types as types

        if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
            counts = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
            column = column.flatten()
        self._spool("caption", _strings(column))
        return counts

    def _spool(self, name: str, texts) -> None:
        """Add large strings of Arrow's, whose bytes lie one behind the other."""
        _, ends, data = texts.buffers()
        ends = (
            np.frombuffer(ends, np.int64, count=len(texts) + 1, offset=8 * texts.offset) if len(texts) else np.zeros(1)
        )
        data = np.frombuffer(data, np.uint8)[int(ends[0]) : int(ends[-1])] if data else np.zeros(0, np.uint8)
        self._waiting.append(self._pool.submit(self._spools[name].append, data, np.diff(ends)))
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()


def _strings(column):
    import pyarrow
    import pyarrow.compute as pc

    texts = pc.cast(column, pyarrow.large_string())
    return texts.fill_null("") if texts.null_count else texts


def _first(texts, starts: np.ndarray):
    """Those of the rows that are the first of an image."""
    import pyarrow

    return texts if starts.all() else texts.filter(pyarrow.array(starts))


def _codes(column, *, where: str, first: int) -> np.ndarray:
    """Split codes (n,) uint8 of a column of names."""
    import pyarrow.types as types

    encoded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), None]
    missing = len(names) - 1
    indices = encoded.indices.fill_null(missing) if encoded.indices.null_count else encoded.indices
    places = indices.to_numpy(zero_copy_only=False)
    codes = np.zeros(len(names), dtype=np.uint8)
    for place in np.flatnonzero(np.bincount(places, minlength=len(names))).tolist():
        row = first + int(np.argmax(places == place))
        codes[place] = split_codes([names[place]], where=f"{where} {row}")[0]
    return codes[places]
