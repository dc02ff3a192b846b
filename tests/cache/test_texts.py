"""Columns of texts that are no list give the texts that a list would."""

import numpy as np
import pytest

from clipret.cache.texts import ImpliedTexts, PackedTexts


@pytest.mark.parametrize(
    "texts", [["a", "", "bc d", "e"], ["ü", "", "a", "€ 5", "bc"], []], ids=["ascii", "other", "none"]
)
def test_the_texts_of_a_block_are_those_of_a_list(texts):
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    packed = PackedTexts(np.frombuffer(b"".join(encoded), np.uint8), ends)
    assert list(packed) == packed[:] == texts
    for start in range(len(texts)):
        assert packed.block(start, start + 2) == texts[start : start + 2]


def test_bytes_that_are_no_utf_8_are_replaced_in_their_own_text_only():
    packed = PackedTexts(np.frombuffer(b"a\xffbc", np.uint8), np.array([2, 4]))
    assert packed.block(0, 2) == ["a�", "bc"]


@pytest.mark.parametrize("numbered", [True, False])
def test_implied_texts_are_numbers_of_rows_or_nothing(numbered):
    expected = [str(row) if numbered else "" for row in range(9)]
    texts = ImpliedTexts(9, numbered=numbered)
    assert list(texts) == texts[:] == expected
    assert (texts[2:7:2], texts[-1]) == (expected[2:7:2], expected[-1])
