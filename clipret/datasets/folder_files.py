"""What is in a folder of images: its files by their kinds, and the splits that its folders name."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipret.datasets.base import renamed_splits, split_code
from clipret.datasets.parsing import listed
from clipret.datasets.table_files import ENDINGS
from clipret.errors import DatasetError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class Listing:
    """What is below a folder, hidden names aside: paths relative to it with forward slashes, sorted by their parts.

    files  regular files, and links to some in the folder
    links  links that lead out of the folder, to a folder or to nothing: not followed
    """

    files: list[str]
    links: list[str]

    @cached_property
    def images(self) -> list[str]:
        """The files that are images by their endings."""
        return [name for name in self.files if is_image(name)]

    @cached_property
    def wrapper(self) -> str:
        """The folders that all images are in, with a slash at the end: `data/` where `data/train` is, often none.

        A folder that names a split is none of them. Without images: those that all tables and shards are in.
        """
        names = [name for name in (*self.files, *self.links) if is_image(name)]
        names = names or [name for name in (*self.files, *self.links) if ending(name) in (*ENDINGS, ".tar")]
        # All have the folders of the first in common, or fewer.
        top, wrapper = names[0].split("/")[:-1] if names else [], ""
        for part in top:
            longer = f"{wrapper}{part}/"
            if split_code(part) is not None or not all(name.startswith(longer) for name in names):
                break
            wrapper = longer
        return wrapper

    def split_of(self, name: str) -> int | None:
        """The split that a file's top folder within the wrapper names; None where it names none."""
        top, inside, _ = name.removeprefix(self.wrapper).partition("/")
        return split_code(top) if inside else None


def list_files(folder: Path) -> Listing:
    """Everything below a folder. Raises DatasetError when a folder cannot be read."""
    inside = folder.resolve()
    files, links, waiting = [], [], [""]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    name = f"{place}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        (files if _leads_to_file(entry, inside) else links).append(name)
                    elif entry.is_dir():
                        waiting.append(f"{name}/")
                    elif entry.is_file():
                        files.append(name)
        except OSError as error:
            raise DatasetError(f"{folder / place} cannot be read: {error.strerror}.") from None
    return Listing(files=sorted(files, key=parts), links=sorted(links, key=parts))


def _leads_to_file(link: os.DirEntry, inside: Path) -> bool:
    try:
        return link.is_file() and Path(link.path).resolve().is_relative_to(inside)
    except OSError:
        # A link that leads to itself.
        return False


def folder_remarks(files: list[str], *, listing: Listing) -> tuple[str, ...]:
    """What is said of top folders that name splits in other words than ours, where their splits count."""
    tops = (name.removeprefix(listing.wrapper).partition("/")[0] for name in files)
    return renamed_splits(dict.fromkeys(tops))


def folder_splits(folder: Path, files: list[str], *, listing: Listing) -> list[int] | None:
    """The split that each file's top folder names; None when none does. Raises DatasetError when some do."""
    codes = [listing.split_of(name) for name in files]
    outside = [name for name, code in zip(files, codes, strict=True) if code is None]
    if len(outside) == len(files):
        return None
    if outside:
        tops = dict.fromkeys(
            name.removeprefix(listing.wrapper).partition("/")[0]
            for name, code in zip(files, codes, strict=True)
            if code is not None
        )
        raise DatasetError(
            f"{folder}: {len(outside):,} of {len(files):,} images are outside the folders that name a split "
            f"({listed(tops)}): {listed(outside)}; move them into one, or go by a hash with --split hash."
        )
    return codes


def link_remarks(links: list[str]) -> tuple[str, ...]:
    """What is said of links that were not followed."""
    what = "links point outside the folder, to a folder or to nothing, and were skipped"
    return (f"{len(links):,} {what}: {listed(links)}",) if links else ()


def folder_name(folder: Path) -> str:
    """The name of a data set that is this folder."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name or "folder"


def is_image(name: str) -> bool:
    """Whether a file is an image, by its ending."""
    return ending(name) in IMAGE_ENDINGS


def is_text(name: str) -> bool:
    """Whether a file is text, by its ending."""
    return ending(name) == ".txt"


def ending(name: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    return name[name.rfind(".") :].lower()


def parts(name: str) -> list[str]:
    """What paths are sorted by."""
    return name.split("/")
