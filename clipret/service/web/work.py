"""Batches of requests -> answers, in the one thread that computes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipret.errors import ClipretError
from clipret.service.describing import Descriptions
from clipret.service.searching import Searcher
from clipret.service.stage import FOUND
from clipret.service.terms import Query


@dataclass(frozen=True)
class Search:
    """A search as `search` of web.asking reads it, its picture as pixels."""

    query: Query
    head: str
    find: str
    k: int
    offset: int
    split: str
    min_score: float | None
    row: tuple[str, int] | None


@dataclass(frozen=True)
class Embed:
    """Queries whose embeddings are asked for."""

    queries: tuple[Query, ...]
    head: str


class Worker:
    """Answers batches."""

    def __init__(self, searcher: Searcher, descriptions: Descriptions):
        self.searcher, self.descriptions = searcher, descriptions

    def __call__(self, jobs: Sequence[Search | Embed]) -> list[dict | np.ndarray | Exception]:
        """An answer, or what went wrong, for each job. All words of all of them are encoded together."""
        embedded = self._embedded(jobs)
        answers: list = list(embedded)
        together = defaultdict(list)
        for place, (job, values) in enumerate(zip(jobs, embedded, strict=True)):
            if isinstance(job, Search) and not isinstance(values, Exception):
                together[job.head, job.find, job.split].append(place)
        for places in together.values():
            try:
                answers_of = self._searched([jobs[place] for place in places], [embedded[place] for place in places])
            except Exception as error:
                answers_of = [error] * len(places)
            for place, answer in zip(places, answers_of, strict=True):
                answers[place] = answer
        return answers

    def _embedded(self, jobs: Sequence[Search | Embed]) -> list[np.ndarray | Exception]:
        """(n, E) for each job."""
        queries = [job.queries if isinstance(job, Embed) else (job.query,) for job in jobs]
        heads = list(dict.fromkeys(job.head for job in jobs))
        try:
            embedded = self.searcher.embed_by(heads, [query for of_job in queries for query in of_job])
        # One of them is at fault, and the others need their answers.
        except ClipretError as error:
            if len(jobs) == 1:
                return [error]
            return [values for job in jobs for values in self._embedded([job])]
        starts = np.cumsum([0, *map(len, queries)])
        return [embedded[job.head][starts[place] : starts[place + 1]] for place, job in enumerate(jobs)]

    def _searched(self, jobs: Sequence[Search], embedded: Sequence[np.ndarray]) -> list[dict]:
        first, queries = jobs[0], np.concatenate(embedded)
        side = FOUND[first.find]
        most = max(job.offset + job.k for job in jobs)
        found = self.searcher.search(queries, head=first.head, side=side, k=most, split=first.split)
        return [
            self._answer(job, query, hits, side=side) for job, query, hits in zip(jobs, queries, found, strict=True)
        ]

    def _answer(self, job: Search, query: np.ndarray, hits, *, side: str) -> dict:
        hits = hits.first(job.offset + job.k, least=job.min_score)
        return {
            "head": job.head,
            "find": job.find,
            "split": job.split,
            "gallery": self.searcher.gallery_size(job.head, side, job.split),
            "k": job.k,
            "offset": job.offset,
            "hits": self.descriptions.hits(hits, side=side, offset=job.offset),
            "expected": self._expected(job, query, side=side),
        }

    def _expected(self, job: Search, query: np.ndarray, *, side: str) -> list[dict] | None:
        """Row and rank of what belongs to a row of the cache; None: the query is no row, or one of the same side."""
        if job.row is None or job.row[0] == side:
            return None
        row = job.row[1]
        rows = self.descriptions.captions_of(row) if side == "text" else [int(self.searcher.cache.caption_images[row])]
        ranks = [self.searcher.rank(query, head=job.head, side=side, row=of, split=job.split) for of in rows]
        return [{"row": of, "rank": rank} for of, rank in zip(rows, ranks, strict=True) if rank is not None]
