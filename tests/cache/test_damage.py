"""Corruption of any byte of a cache never changes a result."""

import random
from collections import Counter

import h5py
import numpy as np
import pytest

from clipret import FeatureCache, VerifyConfig, verify
from clipret.cache import DONE, SIDES, open_writer
from clipret.cache.inspection import inspect_cache
from clipret.errors import CacheError
from tests.helpers.caches import MADE, cut, fill, join, write_shards


def figures(path) -> tuple:
    """Everything a cache returns: its contents, all done rows, and the result of `info`."""
    cache = FeatureCache(path)
    states = {"image": cache.image_states, "text": cache.text_states}
    columns = ("image_ids", "image_files", "captions", "caption_ids", "problems", "inputs", "about", "fingerprint")
    arrays = [cache.image_splits, cache.caption_images, cache.tokens, *states.values(), *cache.projections.values()]
    arrays += [cache.image_digests, cache.single_colour]
    return (
        [getattr(cache, name) for name in columns],
        [array.tobytes() for array in arrays],
        [cache.read(side, np.flatnonzero(states[side] == DONE)).tobytes() for side in SIDES],
        inspect_cache(path),
    )


def what_becomes_of(path, expected) -> str:
    """Refused when opened, refused when rows are read, or harmless: everything it returns is unchanged."""
    try:
        FeatureCache(path)
    except CacheError:
        return "opening"
    try:
        result = figures(path)
    except CacheError:
        return "reading"
    assert result == expected
    return "harmless"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    return path


def damage(path, *, flips: int, seed: int) -> Counter:
    """Corrupt so many bytes of a file, one at a time, half of them in one bit; counts the outcomes."""
    moment, expected, written = random.Random(seed), figures(path), path.read_bytes()
    counts = Counter()
    for number in range(flips):
        data, at = bytearray(written), moment.randrange(len(written))
        data[at] ^= 1 << moment.randrange(8) if number % 2 else moment.randrange(1, 256)
        path.write_bytes(data)
        outcome = what_becomes_of(path, expected)
        counts[outcome] += 1
        assert verify(VerifyConfig(path))["verdict"].startswith(f"{path} is damaged: ") or outcome == "opening", at
    path.write_bytes(written)
    assert figures(path) == expected
    return counts


@pytest.mark.ci
def test_no_byte_of_a_cache_changes_a_figure_without_a_word(whole):
    counts = damage(whole, flips=60, seed=0)
    assert set(counts) == {"opening", "reading"}


@pytest.mark.slow
def test_no_byte_of_a_thousand_changes_a_figure_without_a_word(whole):
    counts = damage(whole, flips=1000, seed=1)
    assert set(counts) == {"opening", "reading"}, counts


def test_each_kind_of_byte_is_covered(whole):
    """One bit of every data set, of its HDF5 header, of the attributes and of the first block."""
    expected, written = figures(whole), whole.read_bytes()
    places = {"first block": 700, "superblock": 4096 + 20, "attributes": written.index(b'"context_length"')}
    with h5py.File(whole) as file:

        def add(name, item):
            if isinstance(item, h5py.Dataset):
                places[name] = item.id.get_offset()
                places[f"header of {name}"] = 4096 + h5py.h5o.get_info(item.id).addr + 8

        file.visititems(add)
    outcomes = {}
    for name, at in places.items():
        data = bytearray(written)
        data[at] ^= 1
        whole.write_bytes(data)
        outcomes[name] = what_becomes_of(whole, expected)
        assert not verify_or_refuse(whole), name
    whole.write_bytes(written)
    reading = {name for name, outcome in outcomes.items() if outcome == "reading"}
    rows = {"image/features", "image/sha256", "image/single_colour", "image/checksum", "text/features", "text/checksum"}
    assert reading == rows
    assert set(outcomes.values()) == {"opening", "reading"}


@pytest.mark.parametrize(("name", "column"), [("sha256", "image_digests"), ("single_colour", "single_colour")])
def test_notes_are_verified_when_they_are_read_without_the_features(whole, name, column):
    written = whole.read_bytes()
    with h5py.File(whole) as file:
        width = file["image"][name].dtype.itemsize * file["image"][name][0].size
        at = file["image"][name].id.get_offset() + 20 * width
    for copy in (0, width // 2):
        data = bytearray(written)
        data[at + copy] ^= 1
        whole.write_bytes(data)
        with pytest.raises(CacheError) as caught:
            getattr(FeatureCache(whole), column)
        assert str(caught.value) == (
            f"{whole}: 1 images with {name} that differs from its copy, the first of row 20; the cache is damaged: "
            "delete it and extract again with: clipret extract --dataset made"
        )
    whole.write_bytes(written)


def verify_or_refuse(path) -> bool:
    """Whether `verify` calls the file sound; a file that it cannot open is not."""
    try:
        result = verify(VerifyConfig(path))
        return result["sound"] and result["complete"]
    except CacheError:
        return False


@pytest.mark.ci
def test_no_byte_of_a_shard_changes_a_figure_without_a_word(tmp_path):
    path = tmp_path / "made.h5"
    write_shards(path, cut(2))
    join(path, cut(2), merge=False)
    shard, moment, expected = tmp_path / "made.h5.shards" / "1-of-2.h5", random.Random(2), figures(path)
    written, counts = shard.read_bytes(), Counter()
    with h5py.File(shard) as file:
        # From a shard only the features are read now.
        used = [
            range(
                file[side]["features"].id.get_offset(),
                file[side]["features"].id.get_offset() + file[side]["features"].id.get_storage_size(),
            )
            for side in SIDES
        ]
        unused = [
            range(item.id.get_offset(), item.id.get_offset() + item.id.get_storage_size())
            for side in SIDES
            for name, item in file[side].items()
            if name != "features"
        ]
    for _ in range(60):
        data, at = bytearray(written), moment.randrange(len(written))
        data[at] ^= moment.randrange(1, 256)
        shard.write_bytes(data)
        outcome = what_becomes_of(path, expected)
        counts[outcome] += 1
        assert outcome == (
            "reading"
            if any(at in span for span in used)
            else "harmless"
            if any(at in span for span in unused)
            else "opening"
        )
    assert set(counts) == {"opening", "reading", "harmless"}
