"""The line by line caption files that Flickr30k goes around in: its own .token file, and tables made from that."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipret.datasets.parsing import listed, read_text, shortened
from clipret.errors import DatasetError

# Our name of a column -> the names it has in the files that are about.
_COLUMNS = {
    "image": ("image", "image_name", "filename"),
    "caption": ("caption", "comment", "raw"),
    "number": ("comment_number", "caption_number"),
}
_NUMBER = re.compile(r"[0-9]{1,9}")
# A row that lost the separator between its number and its text, as one of the published results.csv has.
_UNSEPARATED = re.compile(r"([0-9]{1,9})\s+(\S.*)", re.DOTALL)
# Flickr8k's is called .token.txt.
_TOKEN_FILE = re.compile(r"\.token(\.txt)?$")
_TOKEN_LINE = "IMAGE.jpg#NUMBER, a tab and the caption"


@dataclass(frozen=True)
class FlickrImage:
    """An image: its file's name, and (id, text) of its captions in order; the id is None where the file has none."""

    file: str
    captions: list[tuple[str | None, str]]

    @property
    def id(self) -> str:
        """The file's name without its ending, as Flickr numbers its photographs."""
        return PurePosixPath(self.file).stem


@dataclass(frozen=True)
class _Row:
    """A caption: the line it starts on, its image's file, its number, if there is one, and its text."""

    line: int
    file: str
    number: str | None
    text: str


def read_captions(path: Path) -> tuple[list[FlickrImage], tuple[str, ...]]:
    """The images of a caption file in the order of their first lines, and what was put right on the way, in words.

    path  a .token or .token.txt file, with lines of an image's file name, a hash sign, a number, a tab and the text; or
          a table with a header, its columns separated by | (without quoting) or by commas (quoted as in CSV)

    The captions of an image come by their numbers, else as in the file; without surrounding white space.

    Raises DatasetError, with the line, when the file is empty or malformed or a caption's number is there twice.
    """
    text, remarks = read_text(path), []
    if not text.strip():
        raise DatasetError(f"{path} is empty; download it again.")
    rows = _token_rows(path, text) if _TOKEN_FILE.search(path.name) else _table_rows(path, text, remarks=remarks)
    rows_of: dict[str, list[_Row]] = {}
    for row in rows:
        if not row.file:
            raise DatasetError(f"{path}, line {row.line}: the name of the image's file is empty.")
        rows_of.setdefault(row.file, []).append(row)
    if not rows_of:
        raise DatasetError(f"{path} has a header and no captions; download it again.")
    images = [FlickrImage(file, _ordered(rows, path)) for file, rows in rows_of.items()]
    if remarks:
        rows = f"{len(remarks):,} rows of {path.name}"
        what = "have no separator between number and text, and were read all the same"
        remarks = [f"{rows} {what}: lines {listed(remarks)}"]
    return images, tuple(remarks)


def _ordered(rows: list[_Row], path: Path) -> list[tuple[str | None, str]]:
    """(id, text) of an image's captions, by their numbers where the file has them."""
    if rows[0].number is None:
        return [(None, row.text) for row in rows]
    lines = {}
    for row in rows:
        if int(row.number) in lines:
            raise DatasetError(
                f"{path}, line {row.line}: {shortened(row.file)} has its caption {row.number} on line "
                f"{lines[int(row.number)]} already."
            )
        lines[int(row.number)] = row.line
    stem = PurePosixPath(rows[0].file).stem
    return [(f"{stem}#{int(row.number)}", row.text) for row in sorted(rows, key=lambda row: int(row.number))]


def _token_rows(path: Path, text: str) -> Iterator[_Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        key, tab, caption = content.partition("\t")
        file, sign, number = key.strip().rpartition("#")
        if not tab or not sign:
            lacks = "no tab" if not tab else f"no # in {shortened(key.strip())}"
            raise DatasetError(f"{path}, line {line} has {lacks}; expected {_TOKEN_LINE}.")
        yield _Row(line, file, _number(number, path, line=line), caption.strip())


def _table_rows(path: Path, text: str, *, remarks: list[int]) -> Iterator[_Row]:
    """The rows below the header; the lines of those that were put right are added to remarks."""
    bars = "|" in text.lstrip().partition("\n")[0]
    lines = _bar_lines(text) if bars else _csv_lines(path, text)
    line, header = next(lines, (1, [""]))
    header = [name.strip() for name in header]
    places = _places(path, header, line=line)
    number_place, last = places.get("number"), len(header) - 1
    for line, cells in lines:
        # Text at the end may have bars in it.
        if bars and places["caption"] == last:
            cells = [*cells[:last], "|".join(cells[last:])] if len(cells) > last else cells
        lost = None
        if number_place == last - 1 and places["caption"] == last and len(cells) > number_place:
            lost = None if "".join(cells[last:]).strip() else _UNSEPARATED.fullmatch(cells[number_place].strip())
        if lost:
            remarks.append(line)
            cells = [*cells[:number_place], *lost.groups()]
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}, line {line} has {len(cells)} fields, expected {len(header)} "
                f"({listed(map(shortened, header))}), separated by "
                f"{'|' if bars else 'commas; put text with commas into double quotes'}."
            )
        number = None if number_place is None else _number(cells[number_place].strip(), path, line=line)
        yield _Row(line, cells[places["image"]].strip(), number, cells[places["caption"]].strip())


def _places(path: Path, header: list[str], *, line: int) -> dict[str, int]:
    """Our name of a column -> its place among the columns."""
    names = ["".join(name.split()).lower() for name in header]
    places_of = {
        ours: [place for place, name in enumerate(names) if name in aliases] for ours, aliases in _COLUMNS.items()
    }
    if len(places_of["image"]) != 1 or len(places_of["caption"]) != 1 or len(places_of["number"]) > 1:
        raise DatasetError(
            f"{path}, line {line}: found the columns {listed(map(shortened, header))}; expected one of "
            f"{', '.join(_COLUMNS['image'])} and one of {', '.join(_COLUMNS['caption'])}."
        )
    return {ours: places[0] for ours, places in places_of.items() if places}


def _bar_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, content.split("|")


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{path}: the row from line {line} on is not CSV: {error}; close every double quote, and double those "
            f"within quoted text."
        ) from None


def _number(text: str, path: Path, *, line: int) -> str:
    if not _NUMBER.fullmatch(text):
        raise DatasetError(
            f"{path}, line {line}: the caption's number is {shortened(text.strip())}; expected 0, 1 and so on."
        )
    return text
