"""Any corruption of a cache is found and reported with its rows."""

import dataclasses
import random
import re

import h5py
import numpy as np
import pytest

from clipret.cache import SIDES, FeatureCache, assembling, check_rows, check_texts, open_writer
from clipret.datasets.base import RetrievalDataset
from clipret.errors import CacheDamagedError
from tests.conftest import contents, write_cache
from tests.helpers.caches import cut, fill, join, tampered, write_shards


def with_annotations(plain):
    return dataclasses.replace(plain, inputs=plain.inputs | {"annotation_sha256": plain.annotation_sha256})


MADE = with_annotations(contents(bias=True))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "made.h5"
    with open_writer(path, MADE) as writer:
        fill(writer)
    return path.read_bytes()


@pytest.fixture
def path(written, tmp_path):
    (tmp_path / "made.h5").write_bytes(written)
    return tmp_path / "made.h5"


def faults(path):
    """side, fault -> rows that have it."""
    cache = FeatureCache(path, allow_incomplete=True)
    rows_of = {(side, name): rows.tolist() for side in SIDES for name, rows in check_rows(cache, side).items()}
    return {key: rows for key, rows in rows_of.items() if rows}


def structure(path):
    try:
        return check_texts(FeatureCache(path, allow_incomplete=True))
    except CacheDamagedError as error:
        return error.faults


def test_a_sound_cache_has_no_fault(path):
    assert faults(path) == {}
    assert structure(path) == []


def test_an_unfinished_cache_has_no_fault(tmp_path):
    with open_writer(tmp_path / "made.h5", MADE) as writer:
        writer.write_images(0, features=np.ones((20, 24), dtype=np.float16), problems={3: "broken"})
    assert faults(tmp_path / "made.h5") == {}
    assert structure(tmp_path / "made.h5") == []


@pytest.mark.ci
def test_a_hundred_random_changes_of_a_byte_in_the_features_are_each_found_with_their_row(path, monkeypatch):
    monkeypatch.setattr(assembling, "CHUNK", 17)
    moment = random.Random(0)
    with h5py.File(path) as file:
        places = {side: (file[side]["features"].id.get_offset(), file[side]["features"].shape) for side in SIDES}
    changed = {side: set() for side in SIDES}
    data = bytearray(path.read_bytes())
    for number in range(100):
        side = SIDES[number % 2]
        offset, (rows, width) = places[side]
        at = moment.randrange(rows * width * 2)
        before = bytes(data)
        data[offset + at] ^= moment.randrange(1, 256)
        path.write_bytes(data)
        assert faults(path)[side, "not what was written"] == [at // (2 * width)]
        data = bytearray(before)
        changed[side].add((offset + at, at // (2 * width)))
    for places in changed.values():
        for offset, _ in places:
            data[offset] ^= 1
    path.write_bytes(data)
    for side, places in changed.items():
        assert faults(path)[side, "not what was written"] == sorted({row for _, row in places})


def test_changes_in_shards_are_found_too(tmp_path):
    path, parts = tmp_path / "made.h5", cut(3)
    write_shards(path, parts)
    join(path, parts, merge=False)
    assert faults(path) == {}
    assert structure(path) == []
    with h5py.File(tmp_path / "made.h5.shards" / "2-of-3.h5", "r+") as file:
        file["image/features"][5, 2] += 1
    assert faults(path) == {("image", "not what was written"): [45]}


def change(path, name, rows, *, values):
    with tampered(path) as file:
        kept = file[name][()]
        if rows is None:
            kept = np.asarray(values, dtype=kept.dtype)
        else:
            kept[rows] = values
        file[name][...] = kept


@pytest.mark.parametrize(
    ("name", "rows", "values", "expected"),
    [
        ("image/checksum", 5, 1, {("image", "not what was written"): [5]}),
        ("text/tokens", 9, 60, {("text", "not what was written"): [9]}),
        (
            "image/features",
            8,
            np.inf,
            {("image", "not what was written"): [8], ("image", "not finite"): [8]},
        ),
    ],
)
def test_the_faults_of_a_row_are_reported(name, rows, values, expected, path):
    change(path, name, rows, values=values)
    assert faults(path) == expected


def test_rows_are_reread_in_pieces_and_reported(path, monkeypatch):
    monkeypatch.setattr(assembling, "CHUNK", 25)
    reports = []
    check_rows(FeatureCache(path), "image", on_progress=reports.append)
    assert [(report.phase, report.done, report.total) for report in reports] == [
        ("image rows", 25, 60),
        ("image rows", 50, 60),
        ("image rows", 60, 60),
    ]


@pytest.mark.parametrize(
    ("name", "rows", "values", "expected"),
    [
        ("image/state", 5, 7, ["/image/state: 1 values are not in 0 to 2, the first of row 5: 7"]),
        ("text/state", [5, 6], 2, ["/text/state: 2 values are not in 0 to 1, the first of row 5: 2"]),
        ("text/state", 5, 0, []),
        ("text/tokens", 4, 0, ["/text/tokens: 1 finished captions have no token count, the first of row 4"]),
        ("text/tokens", 4, -3, ["/text/tokens: 1 values are not in 0 to 32767, the first of row 4: -3"]),
        ("text/tokens", (4, 1), 9, ["1 captions with tokens that differ from their copy, the first of row 4"]),
        ("text/micro_batch", 1, 8, ["1 micro-batches that differ from their copy, the first of row 1"]),
        ("text/image", 9, 60, ["/text/image: 1 values are not in 0 to 59, the first of row 9: 60"]),
        ("text/image", 9, -1, ["/text/image: 1 values are not in 0 to 59, the first of row 9: -1"]),
        ("image/split", 2, 77, ["/image/split: 1 values are not in 0 to 3, the first of row 2: 77"]),
        (
            "image/id",
            2,
            "103",
            [
                "/image/id: 1 ids are used by more than one image",
                "ids, files, splits or captions are not those that annotation_sha256 was made of",
            ],
        ),
        (
            "text/caption",
            2,
            "caption 3",
            ["ids, files, splits or captions are not those that annotation_sha256 was made of"],
        ),
        (
            "image/micro_batch",
            None,
            [-1, -1],
            ["/image/micro_batch: 1 values are not in 0 to 2147483647, the first of row 0: -1"],
        ),
        ("image/checksum", [5, 7], 0, ["2 images are marked done but were never written, the first of row 5"]),
        (
            "image/problem",
            17,
            b"",
            [
                "1 images are unusable without a reason, the first of row 17",
                "1 unusable image rows are not what was written to them: 17",
            ],
        ),
        ("image/problem", 3, b"not an imagE", ["1 unusable image rows are not what was written to them: 3"]),
        ("image/features", 17, 1, ["1 unusable image rows are not what was written to them: 17"]),
        ("image/state", 17, 1, ["1 images are done, yet with a reason to be unusable, the first of row 17"]),
        (
            "image/state",
            18,
            2,
            ["1 images are unusable without a reason, the first of row 18"],
        ),
        (
            "projection/text/weight",
            (0, 0),
            np.nan,
            ["/projection/text/weight has values that are not finite, or beyond 1e+15"],
        ),
        ("projection/image/bias", 3, 1e30, ["/projection/image/bias has values that are not finite, or beyond 1e+15"]),
    ],
)
def test_values_that_no_cache_has_are_named(name, rows, values, expected, path):
    """Even if the checksums are right."""
    change(path, name, rows, values=values)
    assert structure(path) == expected


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("image/id", "/image/id is not what was written (checksum)"),
        ("image/file", "/image/file is not what was written (checksum)"),
        ("image/split", "/image/split is not what was written (checksum)"),
        ("text/id", "/text/id is not what was written (checksum)"),
        ("text/caption", "/text/caption is not what was written (checksum)"),
        ("text/image", "/text/image is not what was written (checksum)"),
        ("projection/image/weight", "/projection/image/weight is not what was written (checksum)"),
        ("projection/image/bias", "/projection/image/bias is not what was written (checksum)"),
        ("projection/text/weight", "/projection/text/weight is not what was written (checksum)"),
        ("projection/logit_scale", "/projection/logit_scale is not what was written (checksum)"),
    ],
)
def test_a_bit_of_what_never_changes_is_named(name, fault, path):
    with h5py.File(path) as file:
        offset = file[name].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 1] ^= 4
    path.write_bytes(data)
    assert structure(path) == [fault]


def test_a_bit_of_a_caption_is_named(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"caption 77", b"caption 78"))
    assert structure(path) == ["/text/caption is not what was written (checksum)"]


def test_a_bit_of_the_attributes_is_named(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"batch_size": 16', b'"batch_size": 17'))
    (fault,) = structure(path)
    assert re.fullmatch(
        r"its structure or attributes \(bytes \d+ to \d+\) are not what was written \(checksum\)", fault
    )


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("image/state", np.ones(59, dtype=np.uint8), "/image/state is uint8 (59,); expected uint8 (60,)"),
        ("text/tokens", np.ones(155, dtype=np.int16), "/text/tokens is int16 (155,); expected int16 (155, 2)"),
        ("image/file", ["a"] * 3, "/image/file is text (3,); expected text (60,)"),
        ("image/split", np.ones(60), "/image/split is float64 (60,); expected uint8 (60,)"),
        ("image/problem", np.zeros(60, "S15"), "/image/problem is S15 (60,); expected S160 (60,)"),
        (
            "projection/text/weight",
            np.zeros((16, 11), np.float32),
            "/projection/text/weight is float32 (16, 11); expected float32 (16, 12)",
        ),
        (
            "projection/image/bias",
            np.zeros(3, np.float32),
            "/projection/image/bias is float32 (3,); expected float32 (12,)",
        ),
        (
            "projection/image/weight",
            np.zeros((23, 12), np.float32),
            "/projection/image/weight is float32 (23, 12); expected float32 (24, E)",
        ),
        (
            "projection/logit_scale",
            np.zeros((1, 1), np.float32),
            "/projection/logit_scale is float32 (1, 1); expected float32 ()",
        ),
        (
            "text/features",
            np.zeros((155, 16), np.float32),
            "/text/features is float32, /image/features is float16",
        ),
    ],
)
def test_an_array_of_another_shape_or_type_is_named(name, values, expected, path):
    with tampered(path) as file:
        del file[name]
        file[name] = values
    assert structure(path)[0] == expected


def test_a_fingerprint_that_is_not_of_the_inputs_is_named(path):
    with tampered(path) as file:
        file.attrs["fingerprint"] = "0" * 64
    assert structure(path) == [f"the fingerprint is 000000000000; its inputs give {MADE.fingerprint[:12]}"]


def test_a_cache_has_the_annotation_sha256_of_its_data_set(tmp_path):
    dataset = RetrievalDataset(name="made", root=tmp_path, split_rule="given", **MADE.columns)
    cache = FeatureCache(write_cache(tmp_path / "made.h5", MADE))
    assert cache.annotations.annotation_sha256 == dataset.annotation_sha256
