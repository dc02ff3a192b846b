"""Memory of a training that reads its features from the cache's file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret.cache import open_writer
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


def train(path: Path, *, limit: float) -> dict:
    child = HELPERS / "child_training_memory.py"
    words = [sys.executable, str(child), str(path), str(path.parent / "runs"), str(limit)]
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
