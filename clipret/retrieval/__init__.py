"""Embeddings -> exact ranks of the matching items, in tiles. The only place that multiplies queries by gallery."""

from clipret.retrieval.engine import Matches, rank, rank_both_directions
from clipret.retrieval.ranks import Positives, Ranks
from clipret.retrieval.ties import TIE_TOLERANCE

__all__ = ["TIE_TOLERANCE", "Matches", "Positives", "Ranks", "rank", "rank_both_directions"]
