"""Jobs that come together are worked on together, and each has its own answer."""

import asyncio
import threading

import pytest

from clipret.service.web.batching import Batcher


def batched(work, jobs, *, prepare=lambda: None):
    """The results, or errors, of jobs that are asked for at once."""

    async def ask():
        batcher = Batcher(work, prepare=prepare)
        try:
            return await asyncio.gather(*map(batcher, jobs), return_exceptions=True)
        finally:
            batcher.close()

    return asyncio.run(ask())


def test_jobs_that_come_together_are_a_batch_of_at_most_32():
    sizes = []

    def work(jobs):
        sizes.append(len(jobs))
        return [job * 10 for job in jobs]

    assert batched(work, range(70)) == [10 * number for number in range(70)]
    assert sizes == [32, 32, 6]


def test_an_error_is_that_of_its_job_alone():
    def work(jobs):
        return [ValueError(job) if job == 2 else job for job in jobs]

    one, two, three = batched(work, [1, 2, 3])
    assert (one, three) == (1, 3)
    assert isinstance(two, ValueError)


def test_a_batch_that_fails_altogether_fails_each_and_the_next_is_worked_on():
    calls = []

    def work(jobs):
        calls.append(len(jobs))
        if len(calls) == 1:
            raise RuntimeError("all")
        return jobs

    results = batched(work, range(40))
    assert [isinstance(result, RuntimeError) for result in results] == [True] * 32 + [False] * 8


def test_all_work_is_in_one_thread_that_was_prepared():
    threads, prepared = set(), []

    def work(jobs):
        threads.add(threading.get_ident())
        return jobs

    batched(work, range(100), prepare=lambda: prepared.append(threading.get_ident()))
    assert list(threads) == prepared
    assert threading.get_ident() not in threads


def test_whoever_has_gone_away_is_not_worked_for():
    worked = []

    async def ask():
        batcher = Batcher(lambda jobs: worked.extend(jobs) or jobs, prepare=lambda: None)
        asking = [asyncio.ensure_future(batcher(number)) for number in range(3)]
        await asyncio.sleep(0)
        asking[1].cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        batcher.close()

    asyncio.run(ask())
    assert worked == [0, 2]


@pytest.mark.parametrize("count", [1, 33])
def test_jobs_that_come_later_are_answered_too(count):
    async def ask():
        batcher = Batcher(lambda jobs: jobs, prepare=lambda: None)
        first = await asyncio.gather(*map(batcher, range(count)))
        await asyncio.sleep(0.01)
        second = await batcher("later")
        batcher.close()
        return first, second

    assert asyncio.run(ask()) == (list(range(count)), "later")
