"""Tokens in a cache: written, read, copied, and cut off between any two steps."""

import json
import shutil

import h5py
import numpy as np
import pytest

from clipret import FeatureCache
from clipret.cache import DONE, open_writer, row_writing, taps
from clipret.cache.taps import Tap, store_tokens
from clipret.errors import CacheDamagedError, CacheError
from clipret.machine.last_blocks import FORMS, pack, shapes_of, unpack
from tests.helpers.caches import Disk, Killed, arrays, tampered
from tests.helpers.tapped import fill, tapped_contents, tokens_of, write_tapped

COPIES = {9: 2, 30: 4}


def require_tokens(path, made, *, copies=None) -> int:
    """Every row that is marked done has its tokens; returns how many."""
    cache, count = FeatureCache(path, allow_incomplete=True), 0
    for side, states in (("image", cache.image_states), ("text", cache.text_states)):
        rows = np.flatnonzero(states == DONE)
        count += len(rows)
        sources = (
            rows if side == "text" else np.array([(copies or {}).get(row, row) for row in rows.tolist()], np.int64)
        )
        stored, expected = cache.read_tokens(side, rows), tokens_of(made, side, sources)
        np.testing.assert_array_equal(stored.lengths, expected.lengths)
        np.testing.assert_array_equal(stored.values, expected.values)
        if expected.scales is not None:
            np.testing.assert_array_equal(stored.scales, expected.scales)
    return count


def write_unmarked(path, made, monkeypatch) -> None:
    """Every row, by a writer that is killed before any of them is marked done."""

    def write():
        with monkeypatch.context() as patch, open_writer(path, made) as writer:
            fill(writer, made)
            Disk(patch, stop_at=0)

    with pytest.raises(Killed):
        write()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_tokens_and_blocks_are_read_as_they_were_written(tmp_path, dtype, form):
    made = tapped_contents(dtype=dtype, form=form)
    path = write_tapped(tmp_path / "made.h5", made)
    assert require_tokens(path, made) == 39 + len(made.captions)
    cache = FeatureCache(path)
    assert not cache.read_tokens("image", np.array([3])).numbers().any(), "an image without a feature"
    for side, block in made.blocks.items():
        stored = cache.blocks[side]
        assert (stored.form, stored.heads, stored.positions) == (block.form, 4, block.positions)
        assert stored.weights.keys() == block.weights.keys()
        assert all(np.array_equal(stored.weights[part], values) for part, values in block.weights.items())


def test_a_writer_gone_through_in_small_pieces_writes_the_same(tmp_path, monkeypatch):
    made = tapped_contents()
    write_tapped(tmp_path / "whole.h5", made)
    monkeypatch.setattr(taps, "_AT_ONCE", 100)
    path = tmp_path / "made.h5"
    write_unmarked(path, made, monkeypatch)
    # Nothing is marked done yet: every row is recognised by its sums.
    assert require_tokens(path, made) == 0
    with open_writer(path, made) as writer:
        assert not len(writer.pending("image"))
        assert not len(writer.pending("text"))
    assert arrays(path) == arrays(tmp_path / "whole.h5")


def test_a_row_whose_tokens_are_torn_is_to_do_again(tmp_path, monkeypatch):
    made = tapped_contents()
    path = tmp_path / "made.h5"
    write_unmarked(path, made, monkeypatch)
    with h5py.File(path, "r+") as file:
        file["image/tap"][7, 4, 15] += 1
        file["text/tap"][int(made.taps["text"].starts[11])] = 0
    with open_writer(path, made) as writer:
        assert writer.pending("image").tolist() == [7]
        assert writer.pending("text").tolist() == [11]


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["float16", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("torn", [False, True])
def test_killed_between_any_two_steps_the_next_writer_makes_the_same_bytes(tmp_path, monkeypatch, torn, dtype):
    monkeypatch.setattr(row_writing, "_SYNC_SECONDS", 0)
    made = tapped_contents(dtype=dtype)
    whole, path, empty = (tmp_path / f"{name}.h5" for name in ("whole", "made", "empty"))
    with open_writer(whole, made) as writer:
        fill(writer, made, copies=COPIES)
    require_tokens(whole, made, copies=COPIES)
    with open_writer(empty, made):
        pass
    shutil.copy(empty, path)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        with open_writer(path, made) as writer:
            fill(writer, made, copies=COPIES)
    assert disk.steps > 80
    # Torn writes at the moments between those of whole ones.
    for moment in range(5 * torn, disk.steps, 10):
        shutil.copy(empty, path)
        with monkeypatch.context() as patch:
            Disk(patch, stop_at=moment, torn=torn)
            with pytest.raises(Killed), open_writer(path, made) as writer:
                fill(writer, made, copies=COPIES)
        require_tokens(path, made, copies=COPIES)
        with open_writer(path, made) as writer:
            fill(writer, made, copies=COPIES)
        assert arrays(path) == arrays(whole), f"killed at step {moment}"


def test_each_token_of_int8_has_a_scale_of_its_own():
    tokens = np.array([[[1.0, -127.0], [0.0, 0.0], [1e-3, 5e-4]]], dtype=np.float32)
    stored = store_tokens(tokens, lengths=np.array([3]), dtype="int8")
    assert stored.values.tolist() == [[1, -127], [0, 0], [127, 64]]
    np.testing.assert_allclose(stored.scales, [1, 0, 1e-3 / 127], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_is_not_a_number_is_not_stored_as_one(dtype):
    tokens = np.ones((1, 2, 2), dtype=np.float32)
    assert store_tokens(tokens, lengths=np.array([2]), dtype=dtype).finite()
    tokens[0, 1, 0] = np.nan
    assert not store_tokens(tokens, lengths=np.array([2]), dtype=dtype).finite()
    assert store_tokens(tokens, lengths=np.array([1]), dtype=dtype).finite()


def test_chunks_hold_as_many_rows_as_fit_and_at_least_one(monkeypatch):
    tap = Tap(4, "float16", starts=np.array([0, 1, 3, 30, 31, 33]))
    monkeypatch.setattr(taps, "_AT_ONCE", 3 * 8)
    rows = np.arange(5)
    assert [rows[chunk].tolist() for chunk in tap.chunks(rows)] == [[0, 1], [2], [3, 4]]
    assert list(tap.chunks(rows[:0])) == []


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_packed_block_is_unpacked_as_it_was(form):
    generator = np.random.default_rng(0)
    weights = {
        part: generator.normal(size=shape).astype(np.float32) for part, shape in shapes_of(form, width=6).items()
    }
    again = unpack(form, pack(form, weights), width=6)
    assert again.keys() == weights.keys()
    assert all(np.array_equal(again[part], values) for part, values in weights.items())
    with pytest.raises(ValueError, match="numbers; expected"):
        unpack(form, pack(form, weights)[1:], width=6)


def _change(name, change):
    def tamper(file):
        values = change(file[name][:])
        file[name][...] = values

    return tamper


def _about(change):
    def tamper(file):
        about = json.loads(file.attrs["about"])
        change(about["blocks"])
        file.attrs["about"] = json.dumps(about)

    return tamper


def _without(name):
    def tamper(file):
        del file[name]

    return tamper


WRONG = {
    "starts beyond": (_change("text/tap_starts", lambda v: v + (v > 8)), "/text/tap_starts does not say where"),
    "starts twice": (
        _change("text/tap_starts", lambda v: np.where(np.arange(len(v)) == 2, v[1], v)),
        "/text/tap_starts does not say where the tokens of",
    ),
    "no starts": (_without("text/tap_starts"), "it has /text/tap without /text/tap_starts"),
    "no block": (_without("projection/image/block"), "it has /image/tap without /projection/image/block"),
    "no sums": (_without("image/tap_sum"), "it has /image/tap without /image/tap_sum"),
    "another form": (
        _about(lambda b: b["image"].update(form="pool")),
        "/projection/image/block is not a pool of width",
    ),
    "no form": (_about(lambda b: b["text"].update(form=["x"])), "does not say what the last block of side text is"),
    "heads": (_about(lambda b: b["text"].update(heads=5)), "does not say what the last block of side text is"),
    "no note": (_about(lambda b: b.clear()), "does not say what the last block of side image is"),
}


@pytest.mark.parametrize(("tamper", "fault"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_whole_is_refused_when_it_is_opened(tmp_path, tamper, fault):
    path = write_tapped(tmp_path / "made.h5")
    with tampered(path) as file:
        tamper(file)
    with pytest.raises(CacheDamagedError) as caught:
        FeatureCache(path)
    assert fault in str(caught.value)


def test_rows_that_there_are_not_are_refused(tmp_path):
    cache = FeatureCache(write_tapped(tmp_path / "made.h5"))
    with pytest.raises(IndexError):
        cache.read_tokens("image", np.array([40]))
    assert len(cache.read_tokens("image", np.array([], dtype=np.int64))) == 0
    with pytest.raises(CacheError, match="has no video tokens"):
        cache.read_tokens("video", np.array([0]))
