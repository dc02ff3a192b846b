"""What a scoring is: a file in this folder binds SCORING to a Scoring, and has a row in SCORINGS.

Shape suffixes: G gallery items, B reference queries of the bank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Parameters = dict[str, float | int]


class Statistics(Protocol):
    """What a scoring has to know of a bank's cosines with a gallery, in memory of the gallery's size."""

    def add(self, similarities: torch.Tensor) -> None:
        """Take in the cosines (G, B) of all gallery items with some more of the bank."""


@dataclass(frozen=True)
class Scoring:
    """A correction of cosines by a bank of reference queries.

    statistics  makes empty Statistics
    correction  of complete statistics and parameters by name: (G,) float64, what is subtracted from the cosines of each
                gallery item. Only its differences matter: a constant changes no rank
    grid        the parameters to choose from, the gentlest first: of several that are equally good the first is taken
    triggers    None: every query is corrected. Else of complete statistics (G,) bool: only queries whose best item, by
                cosine, is one of these are corrected, and the others are ranked by cosine
    """

    statistics: Callable[[], Statistics]
    correction: Callable[..., torch.Tensor]
    grid: tuple[Parameters, ...]
    triggers: Callable[[Any], torch.Tensor] | None = None


class Nearest:
    """The largest cosines of each gallery item with the bank.

    most  how many are kept of each item
    """

    def __init__(self, most: int):
        self._most = most
        self._kept: torch.Tensor | None = None

    def add(self, similarities: torch.Tensor) -> None:
        """As Statistics.add."""
        if self._kept is not None:
            similarities = torch.cat([self._kept, similarities], dim=1)
        self._kept = similarities.topk(min(self._most, similarities.shape[1]), dim=1).values

    def means(self, k: int) -> torch.Tensor:
        """(G,) float64, the mean of each item's k largest cosines; of all where the bank is smaller."""
        return self._kept[:, :k].double().mean(dim=1)
