"""Requests that come within a few milliseconds are answered together: several captions cost little more than one."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

# A caption alone waits so long for others; while a batch is computed the next one gathers.
_SECONDS = 0.002
_MOST = 32


class Batcher(Generic[Job, Result]):
    """Jobs of an event loop -> one thread that works on several at a time."""

    def __init__(self, work: Callable[[Sequence[Job]], Sequence[Result | Exception]], *, prepare: Callable[[], None]):
        """work: called in one thread with 1 to 32 jobs; an exception among its results is that job's. prepare: called
        in that thread before any work."""
        self._work = work
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="clipret-search", initializer=prepare)
        self._waiting: list[tuple[Job, asyncio.Future]] = []
        self._task: asyncio.Task | None = None

    async def __call__(self, job: Job) -> Result:
        """The result of a job. Raises what the work raises of it."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            await asyncio.sleep(_SECONDS)
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                # Whoever has gone away needs no answer.
                await self._answer([(job, future) for job, future in batch if not future.done()])
        finally:
            self._task = None

    async def _answer(self, batch: list[tuple[Job, asyncio.Future]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._pool, self._work, [job for job, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
