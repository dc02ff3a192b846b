"""Marks of people, kept in a table that `--dataset` reads: which picture is right for which words.

What is right is in marks.csv, what is wrong in marks.wrong.csv beside it, both with columns image, caption and split.
An image stays in its split, so that marks on test images are never trained on. Ids are left out, and so are the files:
a cache of marks can be merged with that of a data set whose ids are others.
"""

import csv
import io
import threading
from pathlib import Path

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.errors import UsageError
from clipret.machine.escaping import csv_cell
from clipret.machine.files import read_file, replaced
from clipret.runs import reason

COLUMNS = ("image", "caption", "split")
MOST_MARKS = 100_000
MOST_LETTERS = 500
_MOST_BYTES = 1 << 28


class Marks:
    """The marks of one service. Safe for several threads."""

    def __init__(self, path: Path, cache: FeatureCache):
        """Read the marks that are there. Raises UsageError when the files are not marks."""
        self.path, self._cache, self._lock = path, cache, threading.Lock()
        if path.suffix != ".csv" or not path.parent.is_dir():
            raise UsageError(f"--marks is '{path}'; expected a file that ends with .csv, in a folder that exists.")
        self._rows = {True: _read(path), False: _read(self.wrong_path)}

    @property
    def wrong_path(self) -> Path:
        """Where what is wrong is kept."""
        return self.path.with_name(f"{self.path.stem}.wrong{self.path.suffix}")

    def mark(self, image: int, caption: str, right: bool | None) -> dict[str, int]:
        """Keep whether a caption is right for the image of a row; None: neither, as before any mark.

        Returns right and wrong: how many are marked so. Raises UsageError for a caption that no table can have, and
        OSError when the files cannot be written; the marks are then as before.
        """
        row = self._row(image, caption)
        with self._lock:
            if sum(map(len, self._rows.values())) >= MOST_MARKS and right is not None:
                raise UsageError(f"there are {MOST_MARKS:,} marks already; move the files elsewhere.")
            after = {kind: {key: None for key in rows if key != row} for kind, rows in self._rows.items()}
            if right is not None:
                after[right][row] = None
            for kind, path in ((True, self.path), (False, self.wrong_path)):
                if after[kind] != self._rows[kind]:
                    _write(path, after[kind])
                    self._rows[kind] = after[kind]
            return {"right": len(self._rows[True]), "wrong": len(self._rows[False])}

    def of(self, image: int, caption: str) -> bool | None:
        """Whether they were marked as right; None: they were not marked."""
        try:
            row = self._row(image, caption)
        except UsageError:
            return None
        return next((kind for kind, rows in self._rows.items() if row in rows), None)

    def _row(self, image: int, caption: str) -> tuple[str, ...]:
        caption = " ".join(caption.split())
        if not caption or len(caption) > MOST_LETTERS or csv_cell(caption) != caption:
            raise UsageError(
                f"these words cannot be kept as a caption; expected 1 to {MOST_LETTERS} characters that no spreadsheet "
                f"takes for a formula."
            )
        cache = self._cache
        if not 0 <= image < len(cache.image_states):
            raise UsageError(f"there is no image row {image}.")
        return cache.image_files[image], caption, SPLITS[cache.image_splits[image]]


def _read(path: Path) -> dict[tuple[str, ...], None]:
    """The rows of a file, in their order; none where there is no file."""
    try:
        text = read_file(path, most=_MOST_BYTES).decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"--marks: {path} cannot be read as marks ({reason(error)}); give another file.") from None
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UsageError(f"--marks: {path} is there, and has no marks of clipret; give another file.")
    return {tuple(row): None for row in rows}


def _write(path: Path, rows: dict[tuple[str, ...], None]) -> None:
    with replaced(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
