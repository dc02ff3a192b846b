"""What people type into a search: words, pictures, and sums of them.

    two dogs on a beach
    2:golden retriever + pool.jpg - fruit

Terms are separated by a plus or a minus with spaces around it; a number and a colon before a term are its weight. What
is in double quotes is words as they stand. The form is that of rclip.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from clipret.errors import UsageError

MOST_TERMS = 16
MOST_LETTERS = 2000
_LARGEST = 100.0
# A time of day, such as 5:00, is no weight.
_NEXT = re.compile(
    r'\s*(?:(?P<weight>\d+(?:\.\d+)?|\.\d+):(?!\d)\s*)?(?:"(?P<quoted>[^"]*)"|(?P<plain>.*?))\s*(?:\s(?P<sign>[+-])\s|$)'
)


@dataclass(frozen=True)
class Term:
    """A part of a query: words, a picture, or a row of the cache.

    words   text; None: it is none
    image   path or bytes of an image file
    row     (side, row of the cache): an image or a caption whose features are there
    weight  of it in the sum; negative: it is subtracted
    """

    words: str | None = None
    image: object = None
    row: tuple[str, int] | None = None
    weight: float = 1.0


Query = tuple[Term, ...]


def parse(text: str, *, picture: Callable[[str], object] | None = None) -> Query:
    """The terms of a query.

    picture  what a word is as a picture, such as its path; None: it is none. Without it all terms are words

    Raises UsageError when there is none, they are too many, or one is empty.
    """
    if len(text) > MOST_LETTERS:
        raise UsageError(f"the query has {len(text):,} characters; expected at most {MOST_LETTERS:,}.")
    text = " ".join(text.split())
    terms, sign, place = [], 1.0, 0
    if text.startswith("- "):
        sign, place = -1.0, 2
    while True:
        match = _NEXT.match(text, place)
        words = match["plain"] if match["quoted"] is None else match["quoted"].strip()
        if not words:
            raise UsageError(f"the query '{text}' has a term without words; expected such as: two dogs + snow - beach")
        weight = float(match["weight"] or 1)
        if weight > _LARGEST:
            raise UsageError(f"the query has the weight {match['weight']}; expected at most {_LARGEST:g}.")
        image = picture(words) if picture and match["quoted"] is None else None
        terms.append(Term(words=None if image else words, image=image or None, weight=sign * weight))
        if len(terms) > MOST_TERMS:
            raise UsageError(f"the query has more than {MOST_TERMS} terms; expected fewer.")
        if match["sign"] is None:
            return tuple(terms)
        sign, place = (1.0 if match["sign"] == "+" else -1.0), match.end()


def with_picture(query: Query, image: object) -> Query:
    """The query and a picture, added to it."""
    return (*query, Term(image=image))
