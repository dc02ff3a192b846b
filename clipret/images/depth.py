"""Images of more than eight bits a channel that become all white or all black in clip's conversion to eight."""

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from clipret.datasets.containers import container_of
from clipret.images.files import read_file
from clipret.images.reading import becomes_plain, is_deep
from clipret.machine.files import require_file
from clipret.machine.progress import Progress, ProgressCallback, silent

# Endings of formats that have eight bits, whose files are not opened.
_EIGHT_BITS = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp")
# For network disks, which answer many questions at once.
_THREADS = 8
# An image may take a gigabyte of memory: one is decoded at a time.
_DECODING = threading.Lock()


def find_plain(files: list[str], *, root: Path, on_progress: ProgressCallback = silent) -> list[int]:
    """Rows of the images of more than eight bits a channel that are of a single colour once they are converted.

    files        as in datasets.RetrievalDataset
    on_progress  called with phase "image headers", where there are files of such formats

    Of other files no more than the header is read, and nothing of those whose names end as JPEG's and the like do. What
    cannot be read is left to extraction.
    """
    rows = [row for row, name in enumerate(files) if not name.lower().endswith(_EIGHT_BITS)]
    plain_rows = []
    with ThreadPoolExecutor(max_workers=_THREADS) as pool, warnings.catch_warnings():
        # Here: what is set aside is set aside for all threads.
        warnings.simplefilter("ignore")
        try:
            for done, plain in enumerate(pool.map(lambda row: _is_plain(files[row], root), rows), start=1):
                plain_rows += [rows[done - 1]] if plain else []
                on_progress(Progress("image headers", done, len(rows)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return plain_rows


def _is_plain(name: str, root: Path) -> bool:
    try:
        if container_of(name):
            source = io.BytesIO(read_file(name, root=root, attempts=1))
        else:
            # A pipe would be waited for.
            source = root / name
            require_file(source)
        with Image.open(source) as image:
            if not is_deep(image):
                return False
            with _DECODING:
                return becomes_plain(image)
    # PIL's plug-ins raise nearly anything at a broken file.
    except Exception:
        return False
