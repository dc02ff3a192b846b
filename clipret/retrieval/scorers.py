"""A head under a scoring: parameters chosen on val, and corrected ranks of any gallery."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from clipret.config import DIRECTIONS
from clipret.config.choices import COSINE
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.metrics import validation_metrics
from clipret.retrieval.banks import Bank, leads
from clipret.retrieval.engine import rounded
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum, summarise
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.scorings import load_scoring, scored_name
from clipret.retrieval.scorings.scoring import Parameters, Scoring, Statistics

# The sides, image or text, of queries and of the gallery.
_SIDES = {"t2i": ("text", "image"), "i2t": ("image", "text")}


@dataclass(frozen=True)
class Scorer:
    """Ranks of a head under a scoring.

    name        of these ranks, such as trained nnn
    scoring     of SCORINGS
    head        on the device
    parameters  direction -> those of the scoring
    val         direction -> {"cosine": ..., SCORING: ...}, the sum of R@1, R@5 and R@10 on val, from 0 to 3
    """

    name: str
    scoring: str
    head: nn.Module
    bank: Bank
    parameters: dict[str, Parameters]
    val: dict[str, dict[str, float]]
    on_progress: ProgressCallback = silent

    def rank(
        self, gallery: Gallery, embeddings: Mapping[str, torch.Tensor], *, cosine: dict[str, Ranks], **settings
    ) -> dict[str, Ranks]:
        """The corrected ranks of both directions.

        embeddings  of the gallery by the head, as Gallery.embed returns them
        cosine      the ranks by cosine, with the same settings
        settings    block, top and precision, as in engine.rank

        Raises as Bank.survey does.
        """
        evidence = _survey(self, embeddings, precision=settings["precision"])
        return _corrected(evidence, gallery, cosine=cosine, parameters=self.parameters, **settings)


def choose(
    head: nn.Module,
    name: str,
    *,
    scoring: str,
    bank: Bank,
    val: Gallery,
    device: str,
    block: int,
    precision: str,
    on_progress: ProgressCallback = silent,
) -> Scorer:
    """The scorer of a head whose parameters are the best of the scoring's grid on val, for each direction by itself.

    name         of the head
    on_progress  called with phase "bank" while that takes long, and with phase "parameters"

    Best is the largest sum of R@1, R@5 and R@10; of equal ones the first of the grid. Raises as Bank.survey does.
    """
    head = head.to(device)
    scorer = Scorer(scored_name(name, scoring), scoring, head, bank, parameters={}, val={}, on_progress=on_progress)
    settings = {"block": block, "precision": precision}
    embeddings = val.embed(head, device=device)
    cosine = val.rank_embeddings(embeddings, **settings)
    evidence = _survey(scorer, embeddings, precision=precision)
    best: dict[str, tuple[float, Parameters]] = {}
    grid = evidence.scoring.grid
    for number, parameters in enumerate(grid, start=1):
        both = dict.fromkeys(DIRECTIONS, parameters)
        ranks = _corrected(evidence, val, cosine=cosine, parameters=both, **settings)
        for direction in DIRECTIONS:
            value = _sum_of_recalls(ranks[direction])
            if direction not in best or value > best[direction][0]:
                best[direction] = value, parameters
        on_progress(Progress("parameters", number, len(grid)))
    return replace(
        scorer,
        parameters={direction: parameters for direction, (_, parameters) in best.items()},
        val={
            direction: {COSINE: _sum_of_recalls(cosine[direction]), scoring: value}
            for direction, (value, _) in best.items()
        },
    )


@dataclass(frozen=True)
class _Evidence:
    """What a scoring knows of a gallery.

    embeddings  of the gallery, rounded
    statistics  direction -> those of its items
    triggered   direction -> (rows,) bool of all its queries; None: all are corrected
    """

    scoring: Scoring
    embeddings: Mapping[str, torch.Tensor]
    statistics: dict[str, Statistics]
    triggered: dict[str, np.ndarray] | None


def _survey(scorer: Scorer, embeddings: Mapping[str, torch.Tensor], *, precision: str) -> _Evidence:
    scoring = load_scoring(scorer.scoring)
    embeddings = {side: rounded(of_side, precision).contiguous() for side, of_side in embeddings.items()}
    statistics, triggered = {}, {}
    for direction, (asking, side) in _SIDES.items():
        statistics[direction] = scorer.bank.survey(
            scorer.head,
            asking,
            gallery=embeddings[side],
            statistics=scoring.statistics(),
            precision=precision,
            on_progress=scorer.on_progress,
        )
        if scoring.triggers:
            members = scoring.triggers(statistics[direction])
            triggered[direction] = leads(embeddings[asking], embeddings[side], members=members)
    return _Evidence(scoring, embeddings, statistics, triggered or None)


def _corrected(
    evidence: _Evidence,
    gallery: Gallery,
    *,
    cosine: dict[str, Ranks],
    parameters: dict[str, Parameters],
    **settings: Any,
) -> dict[str, Ranks]:
    corrections = {
        direction: evidence.scoring.correction(evidence.statistics[direction], **parameters[direction])
        for direction in DIRECTIONS
    }
    ranks = gallery.rank_embeddings(evidence.embeddings, corrections=corrections, **settings)
    if evidence.triggered is None:
        return ranks
    return {
        direction: of_queries.replaced(ranks[direction], where=evidence.triggered[direction][of_queries.asking])
        for direction, of_queries in cosine.items()
    }


def _sum_of_recalls(ranks: Ranks) -> float:
    return rsum({"one": summarise(ranks, families=validation_metrics())})
