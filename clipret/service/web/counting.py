"""What /metrics shows: requests, their times, and batches, in the form of Prometheus."""

import functools
import time
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from starlette.requests import Request
from starlette.responses import Response

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32)


class Counts:
    """The counters of one service."""

    def __init__(self):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._answers = Counter("clipret_answers", "Answers by status.", ["status"], registry=self._registry)
        self._seconds = Histogram(
            "clipret_request_seconds", "Time of requests.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._batches = Histogram(
            "clipret_batch_size", "Searches that were computed together.", buckets=_SIZES, registry=self._registry
        )
        self._work = Histogram(
            "clipret_batch_seconds", "Time of such a batch.", buckets=_SECONDS, registry=self._registry
        )

    def count(self, path: str, status: int) -> None:
        """Count an answer. Paths are not told apart: clients make them up."""
        self._answers.labels(str(status)).inc()

    def observed(
        self, route: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler, with its time observed."""
        seconds = self._seconds.labels(route)

        @functools.wraps(handler)
        async def timed(request: Request) -> Response:
            with seconds.time():
                return await handler(request)

        return timed

    def timed(self, work: Callable[[Sequence], Sequence]) -> Callable[[Sequence], Sequence]:
        """The work on a batch, with its size and time observed."""

        def observed(jobs: Sequence) -> Sequence:
            started = time.monotonic()
            results = work(jobs)
            self._batches.observe(len(jobs))
            self._work.observe(time.monotonic() - started)
            return results

        return observed

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
