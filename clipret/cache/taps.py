"""The tap of a cache: the tokens that go into an encoder's last block, beside its features.

    /image/tap (N, T, W), /image/tap_scale (N, T) of int8    every image has T tokens
    /text/tap (L, W), /text/tap_scale (L,) of int8           one caption after the other
    /text/tap_starts (M + 1,) int64, where each caption's tokens begin and the last ones end
    /image/tap_sum (N,), /text/tap_sum (M,)                  crc32 of each row's tokens, with their scales behind them

The sums are among a row's notes, which its checksum covers: features are compared without reading tokens.

Shape suffixes: N images, M captions, n rows, T tokens of a row, L of all rows, W width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import h5py
import numpy as np

from clipret.cache.raw import Place, RawFile
from clipret.machine.last_blocks import FORMS, HEADS, LastBlock, pack, unpack

if TYPE_CHECKING:
    from clipret.machine.token_rows import TokenRows

SUM = "tap_sum"
STARTS = "text/tap_starts"
# What the names of arrays of tokens end with.
TOKEN_ARRAYS = ("/tap", "/tap_scale")
# Bytes of tokens that are in memory at once, where all rows are gone through.
_AT_ONCE = 64 << 20
_LARGEST_INT8 = 127


@dataclass(frozen=True, eq=False)
class Tap:
    """How the tokens of one side lie in a file.

    width      W
    dtype      float16 or int8
    positions  T, of images; None: rows have their own number
    starts     (M + 1,) int64, of captions; None: positions says it
    """

    width: int
    dtype: str
    positions: int | None = None
    starts: np.ndarray | None = None

    def arrays(self, side: str, *, count: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> shape and type of the arrays of `count` rows."""
        shape = (count, self.positions) if self.starts is None else (int(self.starts[-1]),)
        arrays = {f"{side}/tap": ((*shape, self.width), self.dtype)}
        return arrays | ({f"{side}/tap_scale": (shape, "float32")} if self.dtype == "int8" else {})

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64: tokens of the given rows."""
        if self.starts is None:
            return np.full(len(rows), self.positions, dtype=np.int64)
        return self.starts[rows + 1] - self.starts[rows]

    def row_bytes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64: bytes of the tokens of the given rows."""
        return self.lengths(rows) * (self.width * np.dtype(self.dtype).itemsize + (4 if self.dtype == "int8" else 0))

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        """Slices of the rows whose tokens fit into memory together."""
        ends = np.cumsum(self.row_bytes(rows))
        start = 0
        while start < len(rows):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
            yield slice(start, stop)
            start = stop


@dataclass(frozen=True, eq=False)
class StoredTokens:
    """The tokens of n rows, as they are stored.

    values   (L, W) float16 or int8
    lengths  (n,) int64
    scales   (L,) float32, what int8 is multiplied by; None: of float16
    """

    values: np.ndarray
    lengths: np.ndarray
    scales: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, places: np.ndarray) -> "StoredTokens":
        """Some of the rows, by their places or a mask."""
        places = np.flatnonzero(places) if places.dtype == bool else places
        if len(places) == len(self) and (places == np.arange(len(self))).all():
            return self
        tokens = _tokens_of(np.cumsum(self.lengths) - self.lengths, self.lengths, places)
        return StoredTokens(
            self.values[tokens], self.lengths[places], None if self.scales is None else self.scales[tokens]
        )

    def without(self, places: list[int]) -> "StoredTokens":
        """The same, with zeros in some of the rows."""
        values, scales = self.values.copy(), None if self.scales is None else self.scales.copy()
        tokens = _tokens_of(np.cumsum(self.lengths) - self.lengths, self.lengths, np.array(places, dtype=np.int64))
        values[tokens] = 0
        if scales is not None:
            scales[tokens] = 0
        return StoredTokens(values, self.lengths, scales)

    def sums(self) -> np.ndarray:
        """(n,) uint32: crc32 of each row's values, then its scales; little-endian, and never 0."""
        ends = np.cumsum(self.lengths)
        values, scales = (None if part is None else _bytes_of(part) for part in (self.values, self.scales))
        width = self.values.shape[1] * self.values.dtype.itemsize
        sums = np.zeros(len(self), dtype=np.uint32)
        for row, (end, length) in enumerate(zip(ends.tolist(), self.lengths.tolist(), strict=True)):
            total = crc32(values[(end - length) * width : end * width])
            if scales is not None:
                total = crc32(scales[(end - length) * 4 : end * 4], total)
            sums[row] = total or 1
        return sums

    def numbers(self) -> np.ndarray:
        """(L, W) float32: the tokens that these stand for."""
        values = self.values.astype(np.float32)
        return values if self.scales is None else values * self.scales[:, None]

    def finite(self) -> bool:
        """Whether all are numbers."""
        return bool(np.isfinite(self.values if self.scales is None else self.scales).all())

    def torch(self) -> "TokenRows":
        """The same for heads, which read them as tensors."""
        import torch

        from clipret.machine.token_rows import TokenRows

        scales = None if self.scales is None else torch.from_numpy(self.scales)
        return TokenRows(torch.from_numpy(self.values), torch.from_numpy(self.lengths), scales)


def store_tokens(tokens: np.ndarray, *, lengths: np.ndarray, dtype: str) -> StoredTokens:
    """Tokens (n, L, W) of an encoder, of which each row has its first `lengths` (n,), in the type of a cache.

    int8: each token has a scale of its own, its largest magnitude over 127.
    """
    if (lengths == tokens.shape[1]).all():
        values = tokens.reshape(-1, tokens.shape[2])
    else:
        values = tokens[np.arange(tokens.shape[1]) < lengths[:, None]]
    lengths = np.asarray(lengths, dtype=np.int64)
    if dtype != "int8":
        with np.errstate(over="ignore"):
            return StoredTokens(values.astype(dtype), lengths)
    scales = np.abs(values).max(axis=1).astype(np.float32) / np.float32(_LARGEST_INT8)
    # A token of zeros has no scale of its own.
    steps = np.where(scales > 0, scales, np.float32(1))
    with np.errstate(invalid="ignore"):
        rounded = np.rint(values / steps[:, None]).clip(-_LARGEST_INT8, _LARGEST_INT8).astype(np.int8)
    return StoredTokens(rounded, lengths, scales)


def read_tokens(raw: RawFile, side: str, *, tap: Tap, rows: np.ndarray) -> StoredTokens:
    """The stored tokens of the given rows, in memory; nothing of them is compared. Raises OSError."""
    lengths, where = tap.lengths(rows), _places(tap, rows)
    values = raw.read(f"{side}/tap", where).reshape(-1, tap.width)
    scales = raw.read(f"{side}/tap_scale", where).reshape(-1) if tap.dtype == "int8" else None
    return StoredTokens(values, lengths, scales)


def write_tokens(raw: RawFile, side: str, *, tap: Tap, rows: np.ndarray, tokens: StoredTokens) -> None:
    """Write the tokens of the given rows. Raises OSError."""
    where = _places(tap, rows)
    raw.write(f"{side}/tap", where, values=tokens.values)
    if tokens.scales is not None:
        raw.write(f"{side}/tap_scale", where, values=tokens.scales)


def taps_in(file: h5py.File, places: dict[str, Place]) -> dict[str, Tap]:
    """side -> the tap of an open file whose schema holds; without the sides that have none."""
    taps = {}
    if "image/tap" in places:
        _, positions, width = places["image/tap"].shape
        taps["image"] = Tap(width, places["image/tap"].dtype.name, positions=positions)
    if "text/tap" in places:
        _, width = places["text/tap"].shape
        taps["text"] = Tap(width, places["text/tap"].dtype.name, starts=file[STARTS][:])
    return taps


def wrong_taps(places: dict[str, Place], taps: dict[str, Tap], *, counts: dict[str, int]) -> Iterator[str]:
    """What is wrong with the taps of a file, in words; nothing for a sound one."""
    for side, tap in taps.items():
        if tap.starts is not None:
            starts, total = tap.starts, places[f"{side}/tap"].shape[0]
            if len(starts) != counts[side] + 1 or starts[0] != 0 or starts[-1] != total or (np.diff(starts) < 1).any():
                yield f"/{STARTS} does not say where the tokens of {counts[side]:,} captions are"
        if (f"{side}/tap_scale" in places) != (tap.dtype == "int8"):
            yield f"/{side}/tap is {tap.dtype}, and has {'no ' if tap.dtype == 'int8' else ''}scales"


def packed_blocks(blocks: Mapping[str, LastBlock]) -> dict[str, np.ndarray]:
    """Name below /projection -> the weights of a side's last block, as a file has them."""
    return {f"{side}/block": pack(block.form, block.weights) for side, block in blocks.items()}


def block_notes(blocks: Mapping[str, LastBlock]) -> dict[str, dict]:
    """What `about` says of the last blocks, JSON-ready."""
    return {
        side: {"form": block.form, "width": block.width, HEADS: block.heads, "positions": block.positions}
        for side, block in blocks.items()
    }


def blocks_in(group: h5py.Group, *, about: dict, taps: dict[str, Tap]) -> dict[str, LastBlock]:
    """side -> the last block behind the tap. Raises ValueError when the file does not say what it is."""
    blocks = {}
    for side, tap in taps.items():
        note = about.get("blocks", {}).get(side)
        note = note if isinstance(note, dict) else {}
        form, heads = str(note.get("form")), note.get(HEADS)
        if form not in FORMS or not isinstance(heads, int) or heads < 1 or tap.width % heads:
            raise ValueError(f"attribute about does not say what the last block of side {side} is")
        if f"{side}/block" not in group:
            raise ValueError(f"it lacks /projection/{side}/block")
        try:
            weights = unpack(form, group[f"{side}/block"][:], width=tap.width)
        except ValueError as error:
            raise ValueError(f"/projection/{side}/block is not a {form} of width {tap.width}: {error}") from None
        blocks[side] = LastBlock(form, heads, tap.positions, weights)
    return blocks


def block_arrays(blocks: Mapping[str, LastBlock]) -> dict[str, np.ndarray]:
    """The blocks as a part of the encoder's own head: SIDE/block/PART -> array, and SIDE/block/heads, a number."""
    arrays = {}
    for side, block in blocks.items():
        arrays |= {f"{side}/block/{part}": values for part, values in block.weights.items()}
        arrays[f"{side}/block/{HEADS}"] = np.float32(block.heads)
    return arrays


def _places(tap: Tap, rows: np.ndarray) -> np.ndarray:
    """Rows of the array of a tap, for rows of the cache."""
    return rows if tap.starts is None else _tokens_of(tap.starts[:-1], np.diff(tap.starts), rows)


def _tokens_of(starts: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The places of all tokens of some rows, row after row; starts and lengths are those of every row."""
    starts, lengths = starts[rows], lengths[rows]
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _bytes_of(values: np.ndarray) -> memoryview:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return memoryview(little.reshape(-1).view(np.uint8))
