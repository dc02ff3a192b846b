from types import SimpleNamespace

import numpy as np
import pytest

from clipret.errors import UsageError
from clipret.protocols.languages import by_language
from clipret.protocols.protocol import make_protocol

IDS = ["en:a", "de:a", "en:b", "ja:b"]


def cache(ids=IDS, dataset="xtd10"):
    return SimpleNamespace(
        path="made.h5",
        image_ids=["a", "b"],
        image_splits=np.full(2, 2, dtype=np.uint8),
        image_states=np.ones(2),
        usable=np.ones(2, dtype=bool),
        text_states=np.ones(len(ids)),
        captions=[f"text {name}" for name in ids],
        caption_ids=ids,
        caption_images=np.array([0, 0, 1, 1][: len(ids)]),
        inputs={"dataset": dataset, "prompt": "{}", "caption_clean": "none"},
    )


def test_every_language_has_its_captions_and_all_images():
    made = cache()
    parts = by_language(made, make_protocol(made, "xtd10"), languages=())
    assert [part.name for part in parts] == ["xtd10:de", "xtd10:en", "xtd10:ja"]
    assert [part.folds[0].text_rows.tolist() for part in parts] == [[1], [0, 2], [3]]
    assert [part.folds[0].caption_images.tolist() for part in parts] == [[0], [0, 1], [1]]
    assert all(part.folds[0].image_rows.tolist() == [0, 1] for part in parts)


def test_languages_come_in_the_order_that_they_are_asked_for():
    made = cache()
    parts = by_language(made, make_protocol(made, "xtd10"), languages=("ja", "de"))
    assert [part.name for part in parts] == ["xtd10:ja", "xtd10:de"]
    assert parts[0].remarks == (
        "2 images where the protocol has 1,000",
        "ja has 1 captions (published: 1,000)",
    )


def test_captions_of_no_language_are_measured_together():
    made = cache(["1", "2", "3", "4"])
    protocol = make_protocol(made, "split")
    assert by_language(made, protocol, languages=()) == [protocol]


def test_a_language_without_captions_of_these_images_is_refused():
    made = cache()
    made.image_splits[1] = 0
    with pytest.raises(UsageError) as caught:
        by_language(made, make_protocol(made, "split"), languages=("ja",))
    assert str(caught.value) == "--language ja: made.h5 has no captions in it of split's images."
