"""Approximate indexes, for tens of millions of images: how much of what is nearest they find is measured and kept."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipret.errors import ExportError
from clipret.exports import INDEXES
from clipret.exports.embeddings.record import read_about, write_about
from clipret.retrieval.nearest import exact_scores, nearest
from clipret.service.kept import Kept
from clipret.service.searching import Hits, Searcher

# Queries that recall is measured with.
_MOST_QUERIES = 1000
_RECALL_AT = 10


@dataclass(frozen=True)
class Approximate:
    """An index of one side of a gallery.

    kept   the embeddings that it is of
    find   queries (Q, E), k -> places (Q, k) of the gallery, -1 for none
    about  kind, recall@10 and queries: how many captions, or images, it was measured with
    """

    kept: Kept
    find: Callable[[np.ndarray, int], np.ndarray]
    about: dict

    @classmethod
    def opened(cls, searcher: Searcher, head: str, side: str, *, kind: str, about: dict) -> "Approximate":
        """The index that embed wrote, with its recall, measured now if it never was.

        about  what embed returned

        Raises ExportError when it cannot be read.
        """
        kept = searcher.heads[head].kept[side]
        path = kept.path.with_suffix(f".{kind}")
        try:
            find = importlib.import_module(INDEXES[kind].module).open_index(path)
        # These libraries raise whatever they like at a damaged file.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(
                f"the index {path} cannot be read ({reason}); delete it and {about['record']}, and start the same "
                f"command again."
            ) from None
        out = Path(about["out"])
        record = read_about(out) or {}
        measured = record.get("recall", {}).get(path.name)
        if measured is None:
            measured = _measured(searcher, head, side, find)
            write_about(out, record | {"recall": record.get("recall", {}) | {path.name: measured}})
        return cls(kept, find, {"kind": kind, "path": str(path), **measured})

    def search(self, queries: np.ndarray, *, k: int) -> list[Hits]:
        """As Searcher.search, of what the index finds; scores are exact."""
        hits = []
        for query, places in zip(queries, self.find(queries, min(k, len(self.kept.rows))), strict=True):
            places = places[places >= 0]
            scores = exact_scores(self.kept.values, places, query)
            order = np.lexsort((places, -scores))
            self.kept.require_whole(places)
            hits.append(Hits(self.kept.rows[places[order]], scores[order]))
        return hits


def _measured(searcher: Searcher, head: str, side: str, find: Callable) -> dict:
    """recall@10, the mean share of the ten nearest that are found, and queries, by captions for images, or the other
    way round, evenly over the gallery."""
    kept = searcher.heads[head].kept
    asking, items = kept["text" if side == "image" else "image"].values, kept[side].values
    places = np.unique(np.linspace(0, len(asking) - 1, min(_MOST_QUERIES, len(asking))).astype(np.int64))
    queries, k = np.asarray(asking[places], dtype=np.float32), min(_RECALL_AT, len(items))
    if not len(queries) or not k:
        return {"recall@10": 1.0, "queries": 0}
    pairs = zip(nearest(queries, items, k=k)[1], find(queries, k), strict=True)
    shares = [len(np.intersect1d(*pair)) / k for pair in pairs]
    return {"recall@10": float(np.mean(shares)), "queries": len(queries)}
