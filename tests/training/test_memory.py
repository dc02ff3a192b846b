"""Memory of a training that reads its features from the cache's file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret.cache import open_writer
from clipret.cache.layout import NOTES
from clipret.cache.taps import Tap, block_notes, store_tokens
from clipret.machine.last_blocks import LastBlock, shapes_of
from tests.conftest import contents
from tests.helpers import HELPERS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
WIDTH = 64


def write(path: Path, *, pairs: int) -> Path:
    """A cache of so many images with a caption each, all of them for training, in random features."""
    names = list(map(str, range(pairs)))
    content = contents(
        images=1,
        dims=(WIDTH, WIDTH, 32),
        image_ids=names,
        image_files=names,
        image_splits=np.zeros(pairs, np.uint8),
        captions=names,
        caption_ids=names,
        caption_images=np.arange(pairs),
    )
    generator = np.random.default_rng(0)
    with open_writer(path, content) as writer:
        for start in range(0, pairs, 65_536):
            rows = np.arange(start, min(start + 65_536, pairs))
            features = generator.standard_normal((len(rows), WIDTH), dtype=np.float32).astype(np.float16)
            writer.write_images(rows, features=features, problems={})
            writer.write_texts(rows, features=features, tokens=np.full(len(rows), 3))
    return path


def write_tokens(path: Path, *, pairs: int, positions: int = 32) -> Path:
    """So many images with a caption each, half of them in val, with random tokens: 4 KiB an image."""
    generator, names = np.random.default_rng(0), list(map(str, range(pairs)))
    counts = {"image": positions, "text": 4}
    taps = {
        "image": Tap(WIDTH, "float16", positions=positions),
        "text": Tap(WIDTH, "float16", starts=np.arange(pairs + 1) * counts["text"]),
    }
    blocks = {}
    for side, of_side in (("image", positions), ("text", None)):
        shapes = shapes_of("transformer", width=WIDTH)
        weights = {part: generator.normal(scale=0.1, size=shape).astype(np.float32) for part, shape in shapes.items()}
        blocks[side] = LastBlock("transformer", 4, of_side, weights)
    content = contents(
        images=1,
        dims=(WIDTH, WIDTH, 32),
        image_ids=names,
        image_files=names,
        image_splits=np.arange(pairs, dtype=np.uint8) % 2,
        captions=names,
        caption_ids=names,
        caption_images=np.arange(pairs),
        taps=taps,
        blocks=blocks,
        notes=NOTES,
        about=contents().about | {"blocks": block_notes(blocks), "tap_loss": None},
    )
    with open_writer(path, content) as writer:
        for start in range(0, pairs, 4096):
            rows = np.arange(start, min(start + 4096, pairs))
            for side, count in counts.items():
                tokens = generator.standard_normal((len(rows), count, WIDTH), dtype=np.float32)
                tap = store_tokens(tokens, lengths=np.full(len(rows), count), dtype="float16")
                if side == "image":
                    writer.write_images(rows, features=tokens[:, 0], problems={}, tap=tap)
                else:
                    writer.write_texts(rows, features=tokens[:, 0], tokens=np.full(len(rows), count), tap=tap)
    return path


def train(path: Path, *, limit: float, head: str = "linear") -> dict:
    child = HELPERS / "child_training_memory.py"
    words = [sys.executable, str(child), str(path), str(path.parent / "runs"), str(limit), head]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=900)
    return json.loads(done.stdout)


def check(measured: dict, *, pairs: int) -> None:
    """The features stayed where they were: none of the file was mapped, and nothing else grew."""
    assert measured["features"] == "disk"
    assert measured["steps"] == -(-pairs // 1024)
    assert max(measured["mapped"]) == 0
    during = measured["own"][1:-1]
    assert len(during) >= 4
    half = len(during) // 2
    assert max(during[half:]) < max(during[:half]) + (32 << 10), during


@pytest.mark.ci
def test_features_on_the_disk_do_not_come_to_stay(tmp_path):
    pairs = 300_000
    path = write(tmp_path / "large.h5", pairs=pairs)
    size = 4 * WIDTH * pairs
    check(train(path, limit=0.5 * size / (1 << 30)), pairs=pairs)


@pytest.mark.slow
def test_two_million_pairs_train_an_epoch_in_flat_memory(tmp_path):
    pairs = 2_000_000
    path = write(tmp_path / "large.h5", pairs=pairs)
    size = 4 * WIDTH * pairs
    check(train(path, limit=0.25 * size / (1 << 30)), pairs=pairs)


@pytest.mark.ci
def test_ten_times_the_tokens_train_and_are_measured_in_the_same_memory(tmp_path):
    """Of the larger cache 176 MiB of tokens are stored, half of them in val; as float32 they would be twice that."""
    peaks = {}
    for pairs in (4_000, 40_000):
        path = write_tokens(tmp_path / f"{pairs}.h5", pairs=pairs)
        measured = train(path, limit=0.001, head="block")
        assert measured["features"] == "disk"
        assert max(measured["mapped"]) == 0
        peaks[pairs] = measured["peak"] / 1024
    assert peaks[40_000] < peaks[4_000] + 48, peaks
