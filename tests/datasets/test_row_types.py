import pyarrow
import pytest

from clipret.datasets.row_types import holds_image, is_sentences, is_text, plain_caption

TEXT, BYTES = pyarrow.string(), pyarrow.binary()
IMAGE = pyarrow.struct([("bytes", BYTES), ("path", TEXT)])
SENTENCE = pyarrow.struct([("raw", TEXT), ("sentid", pyarrow.int64())])


@pytest.mark.parametrize(
    ("kind", "is_image"),
    [
        (IMAGE, True),
        (pyarrow.struct([("path", TEXT), ("bytes", pyarrow.large_binary())]), True),
        (pyarrow.struct([("path", TEXT), ("bytes", pyarrow.null())]), True),
        (BYTES, True),
        (pyarrow.large_binary(), True),
        (pyarrow.binary(5), True),
        (pyarrow.dictionary(pyarrow.int32(), BYTES), True),
        (pyarrow.list_(IMAGE), True),
        (pyarrow.large_list(BYTES), True),
        (TEXT, False),
        (pyarrow.int64(), False),
        (pyarrow.struct([("path", TEXT)]), False),
        (pyarrow.struct([("bytes", TEXT)]), False),
        (pyarrow.list_(TEXT), False),
    ],
)
def test_columns_of_images_are_known_by_their_types(kind, is_image):
    assert holds_image(kind) is is_image


def test_columns_of_texts_and_sentences_are_known_by_their_types():
    assert is_text(TEXT)
    assert is_text(pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()))
    assert not is_text(BYTES)
    assert is_sentences(SENTENCE)
    assert is_sentences(pyarrow.list_(SENTENCE))
    assert not is_sentences(IMAGE)
    assert not is_sentences(pyarrow.list_(TEXT))


def test_a_sentence_is_its_text():
    assert plain_caption({"raw": "one", "sentid": 1}) == "one"
    assert plain_caption([{"text": "one"}, None, "two", {"other": 1}]) == ["one", None, "two", None]
    assert plain_caption(3) == 3
