"""The rows of tables that hold their images: cells that name each image by the file and the row that it is in."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipret.datasets.base import split_code
from clipret.datasets.containers import split_container
from clipret.datasets.parsing import counted, listed
from clipret.datasets.row_files import (
    RowFile,
    column_values,
    image_bytes,
    member_name,
    open_rows,
    read_member,
    row_errors,
)
from clipret.datasets.row_types import LISTS, holds_image, is_kind, is_sentences, plain_caption, require_type
from clipret.datasets.table_files import Wanted
from clipret.errors import DatasetError


@dataclass(frozen=True)
class Part:
    """One file of a table.

    file   its path relative to the data set's root
    split  the split that its name or its folder says, in its words; None where these say none
    """

    file: str
    split: str | None = None


@dataclass
class EmbeddedRows:
    """The rows of some files of one table, in order: what a Table has as `rows`.

    root    folder that the files are below
    parts   the files
    image   the column that has the images: bytes, structures with a field `bytes`, or lists of such

    Rows of one id are one image, and so are rows whose images have the same name and the same bytes. Where there is no
    id, no name and one caption a row, rows of a split with the same bytes are one image: these are read for that.
    """

    root: Path
    parts: list[Part]
    image: str
    _firsts: dict[tuple, list[str]] = field(default_factory=dict)
    _digests: dict[str, bytes] = field(default_factory=dict)
    _empty: list[str] = field(default_factory=list)
    _other_splits: dict[str, None] = field(default_factory=dict)
    _shared: list[str] = field(default_factory=list)
    _count: int = 0

    def __call__(self, wanted: Wanted) -> Iterator[tuple[str, list]]:
        """(name of the row, cells) of every row that has an image; of a list of images, one for every image."""
        for part in self.parts:
            file = open_rows(self.root / part.file)
            self._require_columns(file, wanted)
            for row, images, cells in self._read(file, wanted):
                self._shared += [f"{part.file}#{row}"] if len(images) > 1 else []
                if not images:
                    self._empty.append(f"{part.file}#{row}")
                number = f"{row} of {part.file}" if len(self.parts) > 1 else str(row)
                for path, member in images:
                    yield number, self._cells(wanted, cells, part=part, path=path, member=member)
                    self._count += 1
        if self._empty and not self._count:
            raise DatasetError(
                f"{file.path}: none of the {counted(len(self._empty), 'row')} has an image in `{self.image}`; expected "
                f"bytes, or the path of a file."
            )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was left out or not believed, in words; of the rows that were read so far."""
        remarks = []
        if self._empty:
            what = counted(len(self._empty), "row")
            remarks.append(f"left out {what} whose `{self.image}` has no image: {listed(self._empty)}")
        if self._shared:
            remarks.append(
                f"{counted(len(self._shared), 'row')} with several images: {listed(self._shared)}; their captions "
                f"match all of these by --protocol split-equal-texts"
            )
        if self._other_splits:
            remarks.append(f"the splits are the column's, not those of the file names: {listed(self._other_splits)}")
        return tuple(remarks)

    def _require_columns(self, file: RowFile, wanted: Wanted) -> None:
        names = file.schema.names
        missing = [name for ours, name in wanted if ours in ("image", "caption") and name not in names]
        if missing:
            raise DatasetError(
                f"{file.path} has no column `{missing[0]}`, which {self.parts[0].file} has; expected the same columns "
                f"in all files of the table."
            )
        kind = file.schema.field(self.image).type
        if not holds_image(kind):
            raise DatasetError(
                f"{file.path}: column `{self.image}` holds {kind}; expected images: bytes, or a structure with `bytes`."
            )
        for ours, name in wanted:
            is_plain = ours != "caption" or not is_sentences(file.schema.field(name).type)
            if ours != "image" and name in names and is_plain:
                require_type(file.path, file.schema, ours=ours, name=name)

    def _read(self, file: RowFile, wanted: Wanted) -> Iterator[tuple[int, list, dict]]:
        """(row, (own path, member or None) of its images, column -> value) of every row of a file."""
        others = list(dict.fromkeys(name for ours, name in wanted if ours != "image" and name in file.schema.names))
        empty, row = set(self._empty_cells(file)), 0
        is_list = is_kind(file.schema.field(self.image).type, LISTS)
        columns = [*others, self.image] if is_list else others
        for batch in file.batches(columns, names_of=None if is_list else self.image):
            read = column_values(batch, others, path=file.path)
            with row_errors(file.path):
                cells = _own_paths(batch, self.image, is_list=is_list)
            for place in range(batch.num_rows):
                paths = cells[place] if is_list else [cells[place]]
                items = [(path, None if (row, item) in empty else item) for item, path in enumerate(paths)]
                images = [
                    (
                        path,
                        None
                        if item is None
                        else member_name(self.image, row, item=item if is_list else None, name=path),
                    )
                    for path, item in items
                    if path or item is not None
                ]
                yield row, images, {name: column[place] for name, column in read.items()}
                row += 1

    def _empty_cells(self, file: RowFile) -> Iterator[tuple[int, int]]:
        """(row, place in its list) of the images that have no bytes."""
        if file.copies and (nulls := self._nulls_by_names(file)) is not None:
            yield from ((row, 0) for row in nulls)
            return
        row = 0
        for batch in file.batches([self.image]):
            with row_errors(file.path):
                validity = _validity(batch.column(batch.schema.names.index(self.image)))
            for valid in validity:
                yield from ((row, item) for item, is_there in enumerate(valid) if not is_there)
                row += 1

    def _nulls_by_names(self, file: RowFile) -> list[int] | None:
        """The rows that are null, where all others have a name and the first of them has bytes; else None.

        Then others without bytes are taken for none: to know would be to read all images, and extraction says it.
        """
        import pyarrow.types as types

        kind, nulls, first, row = file.schema.field(self.image).type, [], None, 0
        if not types.is_struct(kind) or kind.get_field_index("path") < 0:
            return None
        for batch in file.batches([], names_of=self.image):
            with row_errors(file.path):
                cells = batch.column(batch.schema.names.index(self.image)).to_pylist()
            for cell in cells:
                if cell is None:
                    nulls.append(row)
                elif cell["path"] is None:
                    return None
                elif first is None:
                    first = row
                row += 1
        if first is None:
            return nulls
        with row_errors(file.path):
            return nulls if image_bytes(file.cell(self.image, first).as_py()) is not None else None

    def _cells(self, wanted: Wanted, cells: dict, *, part: Part, path: str | None, member: str | None) -> list:
        values = {ours: cells.get(name) for ours, name in wanted if ours != "caption"}
        captions = [plain_caption(cells.get(name)) for ours, name in wanted if ours == "caption"]
        if part.split is not None:
            if values["split"] is None:
                values["split"] = part.split
            elif isinstance(values["split"], str) and split_code(values["split"]) != split_code(part.split):
                self._other_splits[part.file] = None
        if member is None:
            values["image"] = path
        else:
            single = len(captions) == 1 and not isinstance(captions[0], list)
            keys = [("id", values["id"]), ("path", path), ("bytes", values["split"] or "-" if single else None)]
            key = next((key for key in keys if key[1] not in (None, "")), None)
            values["image"] = self._first_of(key, name=f"{part.file}/{member}")
        rest = iter(captions)
        return [next(rest) if ours == "caption" else values[ours] for ours, _ in wanted]

    def _first_of(self, key: tuple | None, *, name: str) -> str:
        """The name of the first image with this key and the same bytes; this name where it is the first."""
        if key is None:
            return name
        if key[0] == "bytes":
            key = (*key, self._digest(name))
        firsts = self._firsts.setdefault(key, [])
        for first in firsts:
            if key[0] == "bytes" or self._digest(first) == self._digest(name):
                return first
        firsts.append(name)
        return name

    def _digest(self, name: str) -> bytes:
        if name not in self._digests:
            file, member = split_container(name)
            try:
                content = read_member(self.root / file, member)
            except OSError as error:
                raise DatasetError(f"{self.root / name} cannot be read: {error}") from None
            self._digests[name] = hashlib.sha256(content).digest()
        return self._digests[name]


def _own_paths(batch, image: str, *, is_list: bool) -> list:
    """The field `path` of each image of a batch, None where it has none; of lists of images, a list for each row."""
    if image not in batch.schema.names:
        return [None] * batch.num_rows
    cells = batch.column(batch.schema.names.index(image))
    if is_list:
        return [_own_paths_of(cell) for cell in cells]
    import pyarrow.compute
    import pyarrow.types as types

    if not types.is_struct(cells.type) or cells.type.get_field_index("path") < 0:
        return [None] * batch.num_rows
    return pyarrow.compute.struct_field(cells, "path").to_pylist()


def _own_paths_of(cell) -> list:
    images = cell.as_py() or []
    return [image.get("path") if isinstance(image, dict) else None for image in images]


def _validity(cells) -> list[list[bool]]:
    """For each cell of an image column, which of its images have bytes; a cell that is no list has one."""
    import pyarrow.compute
    import pyarrow.types as types

    if is_kind(cells.type, LISTS):
        return [_valid_items(cell) for cell in cells]
    values = pyarrow.compute.struct_field(cells, "bytes") if types.is_struct(cells.type) else cells
    return [[valid] for valid in values.is_valid().to_pylist()]


def _valid_items(cell) -> list[bool]:
    return [valid for (valid,) in _validity(cell.values)] if cell.is_valid else []
