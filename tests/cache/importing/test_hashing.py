"""Splits by hash in a compiled loop are those of hashlib."""

import numpy as np
import pytest

from clipret.annotations.splits import OWN_FRACTIONS, split_by_hash
from clipret.cache.importing.hashing import split_packed
from clipret.cache.texts import ImpliedTexts, PackedTexts


def packed(texts: list[str]) -> PackedTexts:
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return PackedTexts(data, np.cumsum([len(text) for text in encoded], dtype=np.int64))


@pytest.mark.ci
def test_splits_of_packed_texts_of_any_length_are_those_of_strings():
    texts = ["a" * length for length in range(300)] + ["ü" * length for length in range(90)]
    texts += [f"00012/{row:09d}.jpg" for row in range(3000)]
    expected = split_by_hash(texts, fractions=OWN_FRACTIONS)
    np.testing.assert_array_equal(split_packed(packed(texts), fractions=OWN_FRACTIONS), expected)


@pytest.mark.parametrize("numbered", [True, False])
def test_splits_of_implied_texts_are_those_of_strings(numbered):
    """More than are taken at once."""
    texts = ImpliedTexts(66_000, numbered=numbered)
    expected = split_by_hash(texts[:], fractions=OWN_FRACTIONS)
    np.testing.assert_array_equal(split_packed(texts, fractions=OWN_FRACTIONS), expected)


def test_no_texts_have_no_splits():
    assert split_packed(packed([]), fractions=OWN_FRACTIONS).shape == (0,)
