"""Scorings: what is subtracted from the cosines of a gallery item that is near to everything, a hub.

All of them measure how near each gallery item is to a bank of reference queries, and lower the scores of those that are
near to many:

    score(query, item) = cosine(query, item) - correction(item)

The bank of t2i is captions, that of i2t images, both of the train split. Parameters are chosen on the val split.

SCORINGS is the table: a new scoring is a file in this folder that binds SCORING to its declaration (scoring.Scoring),
and a row here. This module imports nothing that is large.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

from clipret.config.choices import COSINE

if TYPE_CHECKING:
    from clipret.retrieval.scorings.scoring import Scoring


class ScoringRow(NamedTuple):
    """A scoring.

    module  imported when it is used
    help    its name in words, for --help
    """

    module: str
    help: str


SCORINGS: dict[str, ScoringRow] = {
    "nnn": ScoringRow("clipret.retrieval.scorings.nnn", help="nearest neighbour normalization"),
    "dis": ScoringRow("clipret.retrieval.scorings.dis", help="dynamic inverted softmax"),
    "csls": ScoringRow("clipret.retrieval.scorings.csls", help="cross-domain similarity local scaling"),
}


def load_scoring(name: str) -> "Scoring":
    """The declaration of a scoring of the table; imports its file, and torch."""
    return importlib.import_module(SCORINGS[name].module).SCORING


def scored_name(head: str, scoring: str) -> str:
    """The name of a head's ranks under a scoring, in the ranks file: trained nnn; by cosine the head's own."""
    return head if scoring == COSINE else f"{head} {scoring}"
