"""A table of the user's own: columns image and caption, optionally split and id; rows of one image join into one."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from clipret.config import COLUMNS, SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits, renamed_splits, split_code
from clipret.datasets.parsing import counted, flaw, listed
from clipret.datasets.paths import ImagePaths
from clipret.datasets.table_columns import Usual, asked_columns, choose_columns
from clipret.datasets.table_files import Table, Wanted, open_table
from clipret.errors import DatasetError

_SPLIT_HINT = f"expected one of {', '.join(SPLITS)}, or go by a hash with --split hash"
_KINDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list", bytes: "bytes"}


@dataclass(frozen=True)
class TableImages:
    """The images of a table, N of them in the order they first appear in, with M captions, image by image.

    files           N paths as written, without `./`, doubled and trailing slashes
    ids             N ids; None when the table has none
    splits          N indices into config.SPLITS; None when the table has none, or they are not asked for
    captions        M texts, each image's in the order of its rows
    caption_images  (M,) int64, the row of each caption's image
    remarks         what was put right, in words
    """

    files: list[str]
    ids: list[str] | None
    splits: list[int] | None
    captions: list[str]
    caption_images: np.ndarray
    remarks: tuple[str, ...] = ()


def load_table(
    config: DatasetConfig, *, table: Table | None = None, usual: Usual = MappingProxyType({})
) -> RetrievalDataset:
    """Read a .csv, .tsv, .jsonl, .ndjson or .parquet file: a row a caption, or a row an image with a list of captions.

    Rows of the same file, or of the same id, are one image. Ids default to the files. The split is the table's unless
    config.split is `hash` or it has none: then 80/10/10 by a hash of the id.

    table  the table, already open; None: the file at config.dataset

    Raises DatasetError, with the line, when the table is malformed or contradicts itself.
    """
    path = Path(config.dataset)
    root = config.root or path.parent
    images = read_images(table or open_table(path), config, root=root, usual=usual)
    ids = images.ids or images.files
    of = "ids" if images.ids else "paths"
    splits, rule = own_splits(ids, config, codes=images.splits, hint="a column `split`", of=of)
    return RetrievalDataset(
        name=path.stem,
        root=root,
        image_ids=ids,
        image_files=images.files,
        image_splits=splits,
        captions=images.captions,
        caption_images=images.caption_images,
        split_rule=rule,
        remarks=images.remarks,
    )


def read_images(table: Table, config: DatasetConfig, *, root: Path | None, usual: Usual) -> TableImages:
    """Read an open table and join its rows into images.

    root  folder that the table's paths start from; None where that is to be found out by them

    Raises DatasetError, with the line, when the table is malformed or contradicts itself.
    """
    joined = _Joined(table, choose_columns(table, config, usual=usual), asked=asked_columns(config), root=root)
    for number, cells in table.rows(joined.wanted):
        joined.add(number, cells)
    return joined.images()


class _Joined:
    """Rows on their way into images: `add` every row, then take `images`."""

    def __init__(self, table: Table, columns: dict[str, tuple[str, ...]], *, asked: set[str], root: Path | None):
        self._table = table
        self._columns = columns
        self._asked = asked
        self._paths = ImagePaths(root)
        self._wants_splits = "split" in columns
        self._files, self._ids, self._codes, self._numbers = [], [], [], []
        self._captions, self._owners = [], []
        self._file_of, self._row_of_file, self._row_of_id, self._code_of = {}, {}, {}, {}
        self._blank = {"id": [], "split": []}
        self._count = 0

    @property
    def wanted(self) -> Wanted:
        """The columns to read, in the order in which `add` takes their cells; no split where none is asked for."""
        return [(ours, name) for ours in COLUMNS for name in self._columns.get(ours, (None,))]

    def add(self, number: int, cells: list) -> None:
        """Take in a row: its number and its cells."""
        image, *captions, split, name = cells
        self._count += 1
        file = self._file(number, image)
        # Where the paths are to be the ids, those that were read.
        paths_are_ids = self._columns["id"] == self._columns["image"]
        row = self._row(number, file=file, name=file if paths_are_ids else self._id(number, name))
        if self._wants_splits:
            self._add_split(number, row=row, split=split)
        for caption in captions:
            if not isinstance(caption, (str, list, type(None))):
                raise self._error(number, f"caption is {_kind(caption)}; expected text, or a list of texts")
            # A blank cell is an empty caption, for `finish` to tell of.
            for text in caption if isinstance(caption, list) else [caption]:
                text = "" if text is None else text
                self._require_text(number, text, what="caption" if caption is text else "a caption of the list")
                self._captions.append(text)
                self._owners.append(row)

    def images(self) -> TableImages:
        """The images of all rows. Raises DatasetError when there are none, or ids or splits on some rows only."""
        if not self._count:
            raise DatasetError(f"{self._table.path} has no rows; expected one for every caption.")
        owners, remarks = np.array(self._owners, dtype=np.int64), list(self._table.remarks)
        ids = self._ids
        if self._blank["id"] and "id" not in self._asked and len(self._blank["id"]) < self._count:
            ids = None
            blank = counted(len(self._blank["id"]), "row")
            remarks.append(f"{blank} of {self._count:,} without an id, so that the files are the ids")
        elif not self._whole("id"):
            ids = None
        order = np.argsort(owners, kind="stable")
        return TableImages(
            files=self._files,
            ids=ids,
            splits=self._codes if self._wants_splits and self._whole("split") else None,
            captions=[self._captions[place] for place in order],
            caption_images=owners[order],
            remarks=(*remarks, *renamed_splits(self._code_of), *self._paths.remarks),
        )

    def _file(self, number: int, image) -> str:
        if isinstance(image, str) and image in self._file_of:
            return self._file_of[image]
        if _is_blank(image):
            raise self._error(number, "image is blank; expected the path of an image file")
        self._require_text(number, image, what="image", one_line=True)
        if "://" in image:
            raise self._error(number, f"image is an address, {image[:80]}; expected the path of a file that is here")
        return self._file_of.setdefault(image, self._paths.read(image))

    def _id(self, number: int, name) -> str | None:
        if _is_blank(name) or (isinstance(name, float) and math.isnan(name)):
            self._blank["id"].append(number)
            return None
        if isinstance(name, float):
            # What pandas makes of whole numbers in a column with a gap; the gap is NaN.
            if math.isinf(name) or not name.is_integer():
                raise self._error(number, "id is a number with a fraction; expected text or whole numbers")
            name = int(name)
        if isinstance(name, int) and not isinstance(name, bool):
            return str(name)
        self._require_text(number, name, what="id", one_line=True)
        return name

    def _row(self, number: int, *, file: str, name: str | None) -> int:
        """The row of the image of this file and id, a new one when it is not known yet."""
        row = self._row_of_file.get(file)
        if row is not None:
            if name is not None and self._ids[row] is None:
                self._require_new(number, file=file, name=name)
                self._ids[row], self._row_of_id[name] = name, row
            elif name is not None and name != self._ids[row]:
                first = f"has id {self._ids[row]} on {self._table.unit} {self._numbers[row]}"
                way_out = f"or the files as ids, with id={self._columns['image'][0]} in --columns"
                raise self._error(number, f"{file} has id {name} here, and {first}; expected one id a file, {way_out}")
            return row
        if name is not None:
            self._require_new(number, file=file, name=name)
            self._row_of_id[name] = len(self._files)
        self._row_of_file[file] = len(self._files)
        self._files.append(file)
        self._ids.append(name)
        self._codes.append(None)
        self._numbers.append(number)
        return len(self._files) - 1

    def _require_new(self, number: int, *, file: str, name: str) -> None:
        row = self._row_of_id.get(name)
        if row is not None:
            first = f"{self._files[row]} on {self._table.unit} {self._numbers[row]}"
            raise self._error(number, f"id {name} is of {file} here, and of {first}; expected one file an id")

    def _add_split(self, number: int, *, row: int, split) -> None:
        if _is_blank(split):
            self._blank["split"].append(number)
            return
        if not isinstance(split, str):
            raise self._error(number, f"split is {_kind(split)}; {_SPLIT_HINT}")
        if split not in self._code_of:
            self._code_of[split] = split_code(split)
        code = self._code_of[split]
        if code is None:
            raise self._error(number, f"split is {split[:60]!r}; {_SPLIT_HINT}")
        if self._codes[row] is None:
            self._codes[row] = code
        elif self._codes[row] != code:
            raise self._error(
                number,
                f"{self._files[row]} is in {SPLITS[code]} here, and in {SPLITS[self._codes[row]]} on "
                f"{self._table.unit} {self._numbers[row]}; expected one split an image",
            )

    def _whole(self, ours: str) -> bool:
        """Whether every row has this column; False when none has. Raises DatasetError when some have."""
        blank, here = self._blank[ours], self._columns[ours][0] in self._table.columns
        if not blank or (len(blank) == self._count and not here):
            return not blank
        where = f"{self._table.unit} {blank[0]}" if len(blank) == 1 else f"{self._table.unit}s {listed(blank)}"
        way_out = "go by a hash with --split hash" if ours == "split" else "take the column out"
        raise DatasetError(
            f"{self._table.path}: {len(blank):,} of {self._count:,} rows have no {ours} ({where}); "
            f"give every row one, or {way_out}."
        )

    def _require_text(self, number: int, text, *, what: str, one_line: bool = False) -> None:
        if not isinstance(text, str):
            raise self._error(number, f"{what} is {_kind(text)}; expected text")
        if fault := flaw(text, one_line=one_line):
            raise self._error(number, f"{what} has {fault}: {text[:60]!a}; fix it")

    def _error(self, number: int, what: str) -> DatasetError:
        return DatasetError(f"{self._table.path}, {self._table.unit} {number}: {what}.")


def _is_blank(value) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _kind(value) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)
