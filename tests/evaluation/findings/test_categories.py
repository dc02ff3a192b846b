"""Gains by object category are those of the images that COCO's annotations say have one, with Student's intervals."""

import json

import numpy as np
import pytest
from scipy import stats

from clipret import EvalConfig, TrainConfig, train
from clipret.evaluation.findings.categories import object_categories
from clipret.evaluation.findings.ranked import Ranked
from clipret.evaluation.inputs import open_inputs
from clipret.protocols.protocol import split_protocol
from clipret.reporting.pages.parts.where import PART
from tests.conftest import contents, write_cache

_IMAGES = 200


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    made = contents(
        images=_IMAGES,
        image_splits=np.repeat(np.array([0, 2], dtype=np.uint8), [50, 150]),
        image_files=[f"{'val' if row >= 50 else 'train'}2017/{100 + row:012d}.jpg" for row in range(_IMAGES)],
        inputs=contents().inputs | {"dataset": "coco"},
    )
    cache = write_cache(folder / "coco.h5", made)
    run = train(TrainConfig(cache=cache, epochs=10, lr=5e-2, runs_dir=folder))["run"]
    inputs = open_inputs(EvalConfig(head=run))
    return Ranked.of(inputs.cache, split_protocol(inputs.cache, split="test"), heads=inputs.heads, device="cpu")


@pytest.fixture
def root(tmp_path):
    """Dogs on every third image of test, cars on ten, and a file of train, which nobody needs to open."""
    (tmp_path / "annotations").mkdir()
    ids = range(150, 100 + _IMAGES)
    annotations = [{"image_id": number, "category_id": 18} for number in ids if number % 3 == 0 for _ in range(2)]
    annotations += [{"image_id": number, "category_id": 3} for number in list(ids)[:10]]
    content = {"annotations": annotations, "categories": [{"id": 18, "name": "<b>dog"}, {"id": 3, "name": "car"}]}
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(content))
    (tmp_path / "annotations/instances_train2017.json").write_text("never opened")
    return tmp_path


def test_figures_are_those_of_the_images_with_such_an_object(ranked, root):
    found = object_categories(ranked, root=root)
    assert found["unread"] == {}
    for direction in ("t2i", "i2t"):
        (entry,) = found["categories"][direction]
        dogs = np.array([int(ranked.cache.image_ids[row]) % 3 == 0 for row in ranked.fold.image_rows])
        ranks = [ranked.ranks(head, direction) for head in ("zero-shot", "trained")]
        owners = ranked.fold.caption_images[ranks[0].asking] if direction == "t2i" else ranks[0].asking
        right = [(of.first == 1)[dogs[owners]].astype(float) for of in ranks]
        assert (entry["name"], entry["images"], entry["queries"]) == ("<b>dog", dogs.sum(), len(right[0]))
        assert [entry["before"], entry["after"]] == pytest.approx([values.mean() for values in right])
        gain = entry["after"] - entry["before"]
        assert gain > 0.1
        assert -1 <= entry["low"] < gain < entry["high"] <= 1
        if direction == "i2t":
            # A query an image: the interval is that of a paired t test, and a little wider.
            plain = stats.ttest_rel(right[1], right[0]).confidence_interval(0.95)
            assert entry["low"] < plain.low
            assert entry["high"] > plain.high
            assert entry["high"] - entry["low"] < 1.6 * (plain.high - plain.low)


def test_images_that_were_imported_under_other_ids_have_no_objects(root, tmp_path):
    inputs = contents().inputs | {"dataset": "coco"}
    ids = [f"COCO_val2017_{number:012d}" for number in range(150, 210)]
    splits = np.full(len(ids), 2, dtype=np.uint8)
    path = write_cache(
        tmp_path / "named.h5", contents(images=len(ids), image_ids=ids, image_splits=splits, inputs=inputs)
    )
    named = open_inputs(EvalConfig(cache=path, zero_shot=True))
    protocol = split_protocol(named.cache, split="test")
    ranked = Ranked.of(named.cache, protocol, heads=named.heads, device="cpu")
    assert object_categories(ranked, root=root) == {"unread": {}, "categories": {"t2i": [], "i2t": []}}


def test_they_are_in_the_report_with_what_could_not_be_read(ranked, root):
    found = object_categories(ranked, root=root)
    shown = {"failures": {"heads": ["zero-shot", "trained"], "directions": {}}, "objects": found, "first_words": {}}
    text = PART.render(shown, None)
    (entry,) = found["categories"]["t2i"]
    assert "&lt;b&gt;dog</td>" in text
    gain = f"{100 * (entry['after'] - entry['before']):+.1f}"
    assert f"{gain} <small>[{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]</small>" in text
    (root / "annotations/instances_val2017.json").write_text('{"annotations": []}')
    found = object_categories(ranked, root=root)
    assert found["categories"] == {"t2i": [], "i2t": []}
    text = PART.render({**shown, "objects": found}, None)
    assert "instances_val2017.json: it has no categories." in text
    assert "By the objects" not in text


def test_without_annotations_there_are_none(ranked, root, tmp_path_factory):
    nothing = {"unread": {}, "categories": {"t2i": [], "i2t": []}}
    assert object_categories(ranked, root=tmp_path_factory.mktemp("empty")) == nothing


def test_other_data_than_coco_has_none(searchable, root):
    inputs = open_inputs(EvalConfig(cache=searchable.cache, head=searchable.run))
    ranked = Ranked.of(inputs.cache, split_protocol(inputs.cache, split="test"), heads=inputs.heads, device="cpu")
    assert object_categories(ranked, root=root)["categories"] == {"t2i": [], "i2t": []}
