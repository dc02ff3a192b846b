"""What stops an extraction that could go on: too many unreadable images, a worker process that died."""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Iterator

from clipret.config import ExtractConfig
from clipret.datasets.base import RetrievalDataset
from clipret.errors import DatasetError
from clipret.extraction.processes import Rank
from clipret.images import NOT_FOUND
from clipret.machine.workers import ReadWatch


def require_few_problems(
    problems: dict[int, str], dataset: RetrievalDataset, *, config: ExtractConfig, rank: Rank
) -> None:
    """Raise DatasetError when more than config.max_problems of all images cannot be read, skipped ones not counted.

    problems  image row -> why it cannot be read

    The share is exact, also of few images: one of 20 is 5 %, more than the default allows.
    """
    counted = sorted(row for row, reason in problems.items() if not (config.skip_missing and reason == NOT_FOUND))
    count = len(dataset.image_ids)
    share = len(counted) / count
    percent = f"{float(f'{100 * share:.2g}'):g} %"
    if share > config.max_problems:
        first, again = counted[0], dataclasses.replace(config, retry_problems=True)
        raise DatasetError(
            f"{len(counted):,} of {count:,} images ({percent}) cannot be read, more than "
            f"--max-problems {config.max_problems:g} allows; the first: {dataset.image_files[first]}: "
            f"{problems[first]}. Something is wrong with {dataset.root}. Mend the files and go on with: "
            f"{rank.command(again)}"
        )


@contextlib.contextmanager
def workers_explained(
    config: ExtractConfig, *, dataset: RetrievalDataset, watch: ReadWatch, rank: Rank
) -> Iterator[None]:
    """Turn what torch raises when a worker process has died into a DatasetError that names what it was reading.

    That is a RuntimeError, from a signal handler and so from anywhere, or a broken connection to that process.
    """
    try:
        yield
    except (RuntimeError, ConnectionResetError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if not isinstance(error, RuntimeError):
            # The signal is on its way.
            with contextlib.suppress(RuntimeError):
                time.sleep(0.2)
        # The frames hold the loader, and while it lives the signal handler goes on raising.
        traceback.clear_frames(error.__traceback__)
        fewer = dataclasses.replace(config, workers=0 if config.workers == 1 else 1)
        files = " or ".join(dataset.image_files[row] for row in watch.being_read())
        where = f" while {files} was read" if files else ""
        raise DatasetError(
            f"a worker process died{where}, perhaps for want of memory or, in a container, of /dev/shm. Finished rows "
            f"are kept; go on with fewer processes: {rank.command(fewer)}"
        ) from error
