"""Paths of image files as data sets have them: absolute, with backslashes, or in other letters than the disk's."""

import dataclasses
import os
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath

from clipret.datasets.base import RetrievalDataset
from clipret.datasets.containers import container_of
from clipret.datasets.parsing import counted, is_there, listed
from clipret.errors import DatasetError


class ImagePaths:
    """Reads the paths of a data set whose files are below `root`; remembers what it put right.

    root  None: it is not known yet where they start from, and absolute paths stay
    """

    def __init__(self, root: Path | None):
        self._roots = [] if root is None else _written_as(root)
        self._root = root
        self._absolute: dict[str, None] = {}
        self._backslashes: dict[str, None] = {}

    def read(self, text: str) -> str:
        """The path relative to the root, with forward slashes and without `./` and doubled or trailing slashes.

        One that leads out of the root, or begins with a drive's letter, stays as it is, to be refused.
        """
        path = text
        if "\\" in path and not PureWindowsPath(path).anchor:
            path = path.replace("\\", "/")
            self._backslashes[text] = None
        if path.startswith("/"):
            inside = self._relative(path)
            if inside is not None:
                self._absolute[text] = None
                return inside
        return str(PurePosixPath(path))

    def _relative(self, path: str) -> str | None:
        # `..` is not resolved but refused, as it is in a relative path.
        parts = PurePosixPath(path)
        inside = (str(parts.relative_to(root)) for root in self._roots if parts.is_relative_to(root))
        return next((name for name in inside if name != "."), None)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was put right, in words."""
        remarks = []
        if self._absolute:
            what = counted(len(self._absolute), "absolute path")
            remarks.append(f"{what} read as starting from the root, {self._root}: {listed(self._absolute, limit=2)}")
        if self._backslashes:
            what = counted(len(self._backslashes), "path")
            remarks.append(f"{what} with backslashes, read as with slashes: {listed(self._backslashes, limit=2)}")
        return tuple(remarks)


def look(name: str) -> str:
    """What names have in common that look equal: the case of letters, and how accents are encoded, aside."""
    return name if name.isascii() and name.islower() else unicodedata.normalize("NFC", name.casefold())


def use_files_that_fit(dataset: RetrievalDataset) -> RetrievalDataset:
    """The data set with each image file that is not there replaced by the only one whose name looks equal.

    Files in containers are left alone. Ids, and so a split by their hash, stay.

    Raises DatasetError when several files fit, or one fits several images.
    """
    rows = [row for row in dataset.missing_rows().tolist() if not container_of(dataset.image_files[row])]
    if not rows:
        return dataset
    fitting, files = _Fitting(dataset.root), list(dataset.image_files)
    for row in rows:
        files[row] = fitting.find(files[row]) or files[row]
    changed = [row for row in rows if files[row] != dataset.image_files[row]]
    if not changed:
        return dataset
    owners = defaultdict(list)
    for name, file in zip(dataset.image_files, files, strict=True):
        owners[file].append(name)
    for row in changed:
        if len(owners[files[row]]) > 1:
            raise DatasetError(
                f"data set '{dataset.name}': {' and '.join(owners[files[row]])} look equal, and of these only "
                f"{files[row]} is in {dataset.root}; expected a separate file for every image."
            )
    remark = look_remark("image file", [(dataset.image_files[row], files[row]) for row in changed])
    return dataclasses.replace(dataset, image_files=files, remarks=(*dataset.remarks, remark))


def look_remark(noun: str, pairs: list[tuple[str, str]]) -> str:
    """What is said of names (asked for, used) that are taken for one another."""
    what = f"{counted(len(pairs), noun)} found by names with other letter case or other encoding of accents"
    return f"{what}: {listed((f'{used} for {asked}' for asked, used in pairs), limit=2)}"


class _Fitting:
    """Finds files below a root by how their paths look. Lists each folder once."""

    def __init__(self, root: Path):
        self._root = root
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The only path that looks like this one; None where there is none. Raises DatasetError on several."""
        place = ""
        for part in path.split("/"):
            fitting = self._in(place).get(look(part), [])
            # The name itself, where it is there: of a folder, most often.
            if part in fitting:
                fitting = [part]
            if len(fitting) > 1:
                raise DatasetError(
                    f"{self._root / path} is not there, and {' and '.join(fitting)} in {self._root / place} both look "
                    f"like it; write the one that is meant."
                )
            if not fitting:
                return None
            place = f"{place}/{fitting[0]}" if place else fitting[0]
        return place if is_there(self._root / place) else None

    def _in(self, place: str) -> dict[str, list[str]]:
        if place not in self._names:
            names = defaultdict(list)
            try:
                for name in sorted(os.listdir(self._root / place)):  # noqa: PTH208
                    names[look(name)].append(name)
            except OSError:
                names.clear()
            self._names[place] = names
        return self._names[place]


def _written_as(root: Path) -> list[str]:
    """The root with its links as written, and as they lead: a table may have been made from either."""
    try:
        # Behind a link, `..` is not what it seems: the folder above is looked up.
        plain = Path.cwd() / root if ".." not in root.parts else root.parent.resolve() / root.name
        return list(dict.fromkeys([str(plain), str(root.resolve())]))
    except (OSError, RuntimeError):
        return []
