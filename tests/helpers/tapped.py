"""Caches with the tokens of a last block, made of random numbers."""

from pathlib import Path

import numpy as np

from clipret.cache import CacheContents, open_writer
from clipret.cache.layout import NOTES
from clipret.cache.taps import StoredTokens, Tap, block_notes, store_tokens
from clipret.machine.last_blocks import LastBlock, shapes_of
from tests.conftest import contents, digests_of

POSITIONS = 5


def tapped_contents(
    *, images: int = 40, width: int = 16, embedding: int = 12, dtype: str = "float16", form: str = "transformer"
) -> CacheContents:
    """Contents with the taps and the blocks of both sides; features are as wide as tokens.

    form  of the image side
    """
    plain = contents(images=images, dims=(width, width, embedding))
    generator = np.random.default_rng(7)
    lengths = generator.integers(1, 6, size=len(plain.captions))
    taps = {
        "image": Tap(width, dtype, positions=POSITIONS),
        "text": Tap(width, dtype, starts=np.concatenate([[0], np.cumsum(lengths)])),
    }
    blocks = {}
    for side, positions in (("image", POSITIONS), ("text", None)):
        of_side = form if side == "image" else "transformer"
        weights = {
            part: (generator.normal(scale=0.3, size=shape) + part.endswith("norm_weight")).astype(np.float32)
            for part, shape in shapes_of(of_side, width=width).items()
        }
        weights |= {
            part: np.ones(width, np.float32) for part in weights if part.startswith("norm") and "weight" in part
        }
        blocks[side] = LastBlock(of_side, 4, positions, weights)
    return contents(
        images=images,
        dims=(width, width, embedding),
        taps=taps,
        blocks=blocks,
        notes=NOTES,
        inputs=plain.inputs | {"tap": "image, text", "tap_dtype": dtype},
        about=plain.about | {"blocks": block_notes(blocks), "tap_loss": None},
    )


def tokens_of(made: CacheContents, side: str, rows: np.ndarray) -> StoredTokens:
    """Other tokens for every row; those of an image and its captions have something in common."""
    tap = made.taps[side]
    lengths = tap.lengths(rows)
    values = np.zeros((len(rows), int(lengths.max(initial=1)), tap.width), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        image = row if side == "image" else int(made.caption_images[row])
        common = np.random.default_rng(image).normal(size=tap.width)
        own = np.random.default_rng([row, side == "text"])
        values[place, : lengths[place]] = common + own.normal(size=(lengths[place], tap.width))
    return store_tokens(values, lengths=lengths, dtype=tap.dtype)


def features_of(made: CacheContents, side: str, rows: np.ndarray) -> np.ndarray:
    """(n, W) of the same: the mean token, as numbers need not come of a real encoder."""
    tokens = tokens_of(made, side, rows)
    parts = np.split(tokens.numbers(), np.cumsum(tokens.lengths)[:-1])
    return np.array([part.mean(axis=0) for part in parts], dtype=np.float32)


def fill(
    writer, made: CacheContents, *, batch: int = 16, copies: dict[int, int] | None = None, name: str = "tapped"
) -> None:
    """Write what is to do.

    copies  image row -> the row that it is copied from
    name    of the images' files, for their digests
    """
    copies = copies or {}
    rows = np.setdiff1d(writer.pending("image"), list(copies))
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        digests = digests_of(f"{name} {row}" for row in chosen.tolist())
        problems = {place: "broken" for place, row in enumerate(chosen.tolist()) if row == 3}
        writer.write_images(
            chosen,
            features=features_of(made, "image", chosen),
            problems=problems,
            digests=digests,
            tap=tokens_of(made, "image", chosen),
        )
    rows = writer.pending("text")
    rows = rows[np.argsort(rows * 37 % 11, kind="stable")]
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        writer.write_texts(
            chosen,
            features=features_of(made, "text", chosen),
            tokens=np.full(len(chosen), 5),
            tap=tokens_of(made, "text", chosen),
        )
    todo = [row for row in writer.pending("image").tolist() if row in copies]
    writer.copy_rows("image", np.array(todo, dtype=np.int64), np.array([copies[row] for row in todo], dtype=np.int64))


def write_tapped(path: Path, made: CacheContents | None = None, **values) -> Path:
    """A complete cache with tokens; image 3 could not be read."""
    made = made or tapped_contents(**values)
    with open_writer(path, made) as writer:
        fill(writer, made)
    return path
