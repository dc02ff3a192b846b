"""Compiled sums over rows are those of zlib and of numpy."""

from zlib import crc32

import numpy as np
import pytest

from clipret.cache import checksums
from clipret.cache.checksums import encode_reasons, row_checksums
from clipret.cache.row_sums import crc32_rows, square_sums
from clipret.machine import instructions

AS_THE_MACHINE_IS, BY_TABLES = True, False


@pytest.fixture(params=[AS_THE_MACHINE_IS, BY_TABLES], autouse=True)
def _way(request, monkeypatch):
    if request.param is BY_TABLES:
        monkeypatch.setattr(instructions, "PRODUCTS", False)
        monkeypatch.setattr(instructions, "HALVES", False)


@pytest.mark.parametrize("width", [0, 1, 7, 8, 9, 16, 24, 31, 32, 128, 131, 1536])
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 9])
def test_the_sum_of_a_row_is_that_of_zlib_whatever_stands_before(rows, width):
    generator = np.random.default_rng(width)
    data = generator.integers(256, size=(rows, width), dtype=np.uint8)
    before = generator.integers(1 << 32, size=rows, dtype=np.uint32)
    expected = [crc32(row.tobytes(), int(start)) for row, start in zip(data, before, strict=True)]
    assert crc32_rows(data, before).tolist() == expected


@pytest.mark.parametrize("compiled_from", [0, 1 << 30])
def test_checksums_are_those_of_the_feature_the_reason_and_the_numbers(monkeypatch, compiled_from):
    monkeypatch.setattr(checksums, "_COMPILED_FROM", compiled_from)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((6, 5)).astype(np.float16)
    notes = {
        "problem": encode_reasons({1: "not an image", 4: "ü" * 100}, count=6),
        "sha256": generator.integers(256, size=(6, 2, 32), dtype=np.uint8),
        "single_colour": generator.integers(2, size=(6, 2), dtype=np.uint8),
    }
    expected = [
        crc32(
            features[row].tobytes()
            + bytes(notes["problem"][row])
            + notes["sha256"][row].tobytes()
            + notes["single_colour"][row].tobytes()
        )
        for row in range(6)
    ]
    assert row_checksums(features, notes).tolist() == expected
    assert row_checksums(features, {}).tolist() == [crc32(row.tobytes()) for row in features]


@pytest.mark.parametrize("compiled_from", [0, 1 << 30])
def test_a_sum_of_zero_is_kept_as_one(monkeypatch, compiled_from):
    monkeypatch.setattr(checksums, "_COMPILED_FROM", compiled_from)
    # Four bytes whose CRC-32 is 0.
    row = np.frombuffer(bytes.fromhex("9d0ad96d"), dtype=np.float16)[None]
    assert crc32(row.tobytes()) == 0
    assert row_checksums(row, {}).tolist() == [1]


def test_squares_of_every_float16_are_those_of_numpy():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        expected = np.square(numbers.astype(np.float32)).astype(np.float64)
    np.testing.assert_array_equal(square_sums(numbers[:, None]), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sums_of_squares_are_those_of_numpy_and_show_what_is_not_finite(dtype):
    features = np.random.default_rng(0).standard_normal((40, 13)).astype(dtype)
    np.testing.assert_allclose(square_sums(features), np.square(features.astype(float)).sum(axis=1), rtol=1e-5)
    features[3, 2], features[7, 12], features[9, 0] = np.nan, np.inf, -np.inf
    assert np.flatnonzero(~np.isfinite(square_sums(features))).tolist() == [3, 7, 9]
