"""What is typed into a search."""

import pytest

from clipret.errors import UsageError
from clipret.service.terms import MOST_TERMS, Term, parse, with_picture


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("two dogs on a beach", [("two dogs on a beach", 1)]),
        ("2:golden retriever + snow - fruit", [("golden retriever", 2), ("snow", 1), ("fruit", -1)]),
        ("- a cat", [("a cat", -1)]),
        ("a cat - .5:a dog", [("a cat", 1), ("a dog", -0.5)]),
        ('"cats - and dogs" + 1.5: rain', [("cats - and dogs", 1), ("rain", 1.5)]),
        ("well-known t-shirt C++", [("well-known t-shirt C++", 1)]),
        ("5:00 o'clock", [("5:00 o'clock", 1)]),
        ("  spaces \t and\nlines ", [("spaces and lines", 1)]),
        ('"2:not a weight"', [("2:not a weight", 1)]),
    ],
)
def test_terms_have_weights_and_signs(text, terms):
    assert [(term.words, term.weight) for term in parse(text)] == terms


def test_a_term_that_is_a_picture_has_no_words():
    query = parse('a.png + "a.png" - b', picture=lambda word: f"/at/{word}" if word.endswith(".png") else None)
    assert [(term.words, term.image, term.weight) for term in query] == [
        (None, "/at/a.png", 1),
        ("a.png", None, 1),
        ("b", None, -1),
    ]


def test_a_picture_is_added_to_words():
    assert with_picture((Term(words="a"),), b"x") == (Term(words="a"), Term(image=b"x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the query '' has a term without words; expected such as: two dogs + snow - beach"),
        ('a + ""', "the query 'a + \"\"' has a term without words; expected such as: two dogs + snow - beach"),
        ("101:a", "the query has the weight 101; expected at most 100."),
        (" + ".join("a" * (MOST_TERMS + 1)), "the query has more than 16 terms; expected fewer."),
        ("x" * 2001, "the query has 2,001 characters; expected at most 2,000."),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == message
