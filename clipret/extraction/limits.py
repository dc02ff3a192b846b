"""Reasons to stop an extraction: too many unreadable images, a worker process that died."""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Iterator

from clipret.backbones.protocol import Backbone
from clipret.config import ExtractConfig
from clipret.datasets.base import RetrievalDataset
from clipret.errors import DatasetError, UsageError
from clipret.extraction.processes import Rank
from clipret.images import NOT_FOUND
from clipret.machine.workers import ReadWatch


def require_few_problems(
    problems: dict[int, str], dataset: RetrievalDataset, *, config: ExtractConfig, rank: Rank
) -> None:
    """Raise DatasetError when more than config.max_problems of all images cannot be read; skipped ones do not count.

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
            f"{problems[first]}. Leave them out with a larger --max-problems, or check "
            f"{dataset.root}, repair the files and continue with: "
            f"{rank.command(again)}"
        )


@contextlib.contextmanager
def workers_explained(
    config: ExtractConfig, *, dataset: RetrievalDataset, watch: ReadWatch, rank: Rank
) -> Iterator[None]:
    """Turn the error of a worker process that died into a DatasetError that names the file it was reading.

    torch raises a RuntimeError from a signal handler, so at any point, or the connection to the process breaks.
    """
    try:
        yield
    except (RuntimeError, ConnectionResetError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if not isinstance(error, RuntimeError):
            # The signal may still arrive.
            with contextlib.suppress(RuntimeError):
                time.sleep(0.2)
        # The frames keep the loader alive, and while it lives its signal handler keeps raising.
        traceback.clear_frames(error.__traceback__)
        fewer = dataclasses.replace(config, workers=0 if config.workers == 1 else 1)
        files = " or ".join(dataset.image_files[row] for row in watch.being_read())
        where = f" while {files} was read" if files else ""
        raise DatasetError(
            f"a worker process died{where}, possibly out of memory or, in a container, out of /dev/shm. Finished "
            f"rows are kept; continue with fewer processes: {rank.command(fewer)}"
        ) from error


def require_decoder(config: ExtractConfig, backbone: Backbone) -> None:
    """Raise UsageError when a GPU is to decode images for an encoder whose resize it does not do."""
    on_gpu = config.decode == "fast" and backbone.device.type == "cuda"
    if on_gpu and (config.pad_images or not backbone.resizes_as_clip):
        why = "--pad-images does not" if config.pad_images else f"{backbone.name} does not"
        raise UsageError(
            f"--decode fast on a GPU resizes images as clip does, and {why}; use --decode exact, or --device cpu."
        )
