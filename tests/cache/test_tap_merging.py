"""Caches with the tokens of a last block, merged into one."""

import dataclasses

import h5py
import numpy as np
import pytest

from clipret import FeatureCache, TrainConfig, train
from clipret.cache import check_rows, check_texts, open_writer, taps
from clipret.cache.inspection import inspect_cache
from clipret.cache.merging import merge
from clipret.config import MergeConfig
from clipret.errors import CacheError, CacheMismatchError
from tests.helpers.caches import arrays
from tests.helpers.tapped import fill, tapped_contents

FIGURES = {"mean": 1.0, "min": 1.0}
LOSS = {"rows": 16, "cosine": FIGURES, "centred_cosine": FIGURES}


def write(path, name, *, images, dtype="float16", **changes):
    """A cache whose ids and files are its own, of the encoder that all of them have; image 3 could not be read."""
    made, model = tapped_contents(images=images, dtype=dtype), tapped_contents(dtype=dtype)
    made = dataclasses.replace(
        made,
        image_ids=[f"{name}{row}" for row in made.image_ids],
        caption_ids=[f"{name}{row}" for row in made.caption_ids],
        projections=model.projections,
        blocks=model.blocks,
        **changes,
    )
    made = dataclasses.replace(made, inputs=made.inputs | {"annotation_sha256": made.annotation_sha256})
    with open_writer(path, made) as writer:
        fill(writer, made, name=name)
    return path


@pytest.fixture
def caches(tmp_path):
    return [write(tmp_path / f"{name}.h5", name, images=count) for name, count in (("monday", 40), ("friday", 7))]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tokens_follow_each_other_as_their_rows_do(tmp_path, monkeypatch, dtype):
    names = (("monday", 40), ("tuesday", 7), ("friday", 11))
    paths = [write(tmp_path / f"{name}.h5", name, images=count, dtype=dtype) for name, count in names]
    # A few rows at a time, and captions of different lengths across their borders.
    monkeypatch.setattr(taps, "_AT_ONCE", 1000)
    reports = []
    merge(MergeConfig(tuple(paths), tmp_path / "week.h5"), on_progress=reports.append)
    week, parts = FeatureCache(tmp_path / "week.h5"), [FeatureCache(path) for path in paths]
    for side in ("image", "text"):
        stored = week.read_tokens(side, np.arange(len(week.checksums[side])))
        of_parts = [part.read_tokens(side, np.arange(len(part.checksums[side]))) for part in parts]
        for name in ("values", "lengths") + (("scales",) if dtype == "int8" else ()):
            expected = np.concatenate([getattr(tokens, name) for tokens in of_parts])
            np.testing.assert_array_equal(getattr(stored, name), expected)
        assert week.blocks[side].form == parts[0].blocks[side].form
        assert week.blocks[side].weights.keys() == parts[0].blocks[side].weights.keys()
        for part, values in week.blocks[side].weights.items():
            np.testing.assert_array_equal(values, parts[0].blocks[side].weights[part])
        assert not any(len(rows) for rows in check_rows(week, side).values())
        progress = [report for report in reports if report.phase == f"tokens of {side} rows"]
        assert len(progress) > 3
        assert progress[-1].done == progress[-1].total == len(week.checksums[side])
    assert check_texts(week) == []
    assert week.problems == dict.fromkeys((3, 43, 50), "broken")
    assert train(TrainConfig(tmp_path / "week.h5", head="block", epochs=1, runs_dir=tmp_path / "runs"))["epochs"] == 1


def test_a_merged_cache_is_that_of_all_rows_written_at_once(caches, tmp_path):
    """But for what says how it was made."""
    merge(MergeConfig(tuple(caches), tmp_path / "week.h5"))
    week = FeatureCache(tmp_path / "week.h5")
    with open_writer(tmp_path / "once.h5", week.contents) as writer:
        for side in ("image", "text"):
            rows = np.arange(len(week.checksums[side]))
            writer.put(side, rows, stored=week.stored(side, rows), tap=week.read_tokens(side, rows))
    assert arrays(tmp_path / "once.h5") == arrays(tmp_path / "week.h5")


def test_what_the_type_of_tokens_costs_is_that_of_all_measured_rows(tmp_path):
    losses = [
        {"image": LOSS, "text": LOSS | {"cosine": {"mean": 0.9, "min": 0.5}}},
        {"text": LOSS | {"rows": 4, "cosine": {"mean": 0.8, "min": 0.6}}},
    ]
    paths = []
    for place, loss in enumerate(losses):
        about = tapped_contents().about | {"tap_loss": loss}
        paths.append(write(tmp_path / f"{place}.h5", f"p{place} ", images=7, about=about))
    paths.append(write(tmp_path / "none.h5", "none", images=7))
    merge(MergeConfig(tuple(paths), tmp_path / "out.h5"))
    described = inspect_cache(tmp_path / "out.h5")["taps"]
    assert described["image"]["loss"] == LOSS
    assert described["text"]["loss"] == LOSS | {"rows": 20, "cosine": {"mean": 0.88, "min": 0.5}}
    merge(MergeConfig((paths[2], write(tmp_path / "more.h5", "more", images=3)), tmp_path / "two.h5"))
    assert inspect_cache(tmp_path / "two.h5")["taps"]["text"]["loss"] is None


def other_block(cache):
    """The encoder's block with another weight."""
    block = cache.blocks["text"]
    weights = block.weights | {"up_bias": block.weights["up_bias"] + 1}
    return {**cache.blocks, "text": dataclasses.replace(block, weights=weights)}


def test_tokens_of_another_type_or_encoder_are_refused(caches, tmp_path):
    out = tmp_path / "out.h5"
    other = write(tmp_path / "other.h5", "other", images=5, dtype="int8")
    with pytest.raises(CacheMismatchError, match=r"\(tap_dtype: 'float16' and 'int8'\); extract one of them again"):
        merge(MergeConfig((caches[0], other), out))
    made = tapped_contents()
    unsaid = made.inputs | {"tap_dtype": "float16"}
    other = write(tmp_path / "unsaid.h5", "unsaid", images=5, dtype="int8", inputs=unsaid)
    with pytest.raises(CacheMismatchError, match=r"\(the shape of their tokens\)"):
        merge(MergeConfig((caches[0], other), out))
    changed = dataclasses.replace(
        tapped_contents(images=5), projections=made.projections, blocks=other_block(FeatureCache(caches[0]))
    )
    changed = dataclasses.replace(changed, image_ids=list("abcde"), caption_ids=[f"c{i}" for i in changed.caption_ids])
    with open_writer(tmp_path / "changed.h5", changed) as writer:
        fill(writer, changed, name="changed")
    with pytest.raises(CacheMismatchError, match=r"\(the encoder's last block\)"):
        merge(MergeConfig((caches[0], tmp_path / "changed.h5"), out))
    assert not out.exists()


def test_damaged_tokens_are_not_carried_along(caches, tmp_path):
    with h5py.File(caches[1], "r+") as file:
        file["image/tap"][5, 0, 0] += 1
    with pytest.raises(CacheError, match=r"friday.h5: 1 tokens of image rows are not what was written to them: 5; the"):
        merge(MergeConfig(tuple(caches), tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5").exists()
    assert not (tmp_path / "out.h5.new").exists()
