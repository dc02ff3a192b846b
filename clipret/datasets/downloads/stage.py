"""The function behind `clipret download`."""

import time

from clipret.config import DownloadConfig
from clipret.config.checks import one_of
from clipret.datasets import DOWNLOADS, NAMED, load_function
from clipret.datasets.downloads.watch import Watch, explained
from clipret.machine.progress import ProgressCallback, silent


def download(config: DownloadConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Download and unpack a data set's files into config.folder, or say what the user has to download.

    COCO: see download_archives. Flickr30k: see gather_flickr30k.

    on_progress  called from several threads, one call at a time; phases "download FILE" and "check FILE" in bytes and
                 "unpack FILE" in files, those of several files mixed

    Returns dataset, root, files (a list of name, bytes, state: "fetched", "resumed" or "already there", and unpacked:
    the files written now), remarks, instructions (lines for the user) and seconds. Raises UsageError when the data set
    has no download, DatasetError when the network, a server, the disk or an archive is not as it must be, or another
    process downloads into the folder.
    """
    started = time.perf_counter()
    one_of("dataset", config.dataset, allowed=DOWNLOADS)
    watch = Watch(on_progress)
    with explained(config.folder):
        result = load_function(NAMED[config.dataset].download)(config, watch=watch)
    return {
        "dataset": config.dataset,
        "root": str(config.folder),
        **result,
        "seconds": round(time.perf_counter() - started, 3),
    }
