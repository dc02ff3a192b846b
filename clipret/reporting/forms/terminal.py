"""Sheets as tables for a terminal of any width."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from clipret.machine.escaping import visible
from clipret.reporting.sheets import Cell, Column, Sheet

# What a label and any other column of texts have at least of a line.
_LABEL_WIDTH, _TEXT_WIDTH = 20, 10
_EDGES = 2
# Between columns: as it is where everything fits, and at least.
_WIDE, _NARROW = 3, 2


@dataclass(frozen=True)
class _Sheets:
    sheets: tuple[Sheet, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, sheet in enumerate(self.sheets):
            if place and self.sheets[place - 1].notes:
                yield Text()
            for columns in _parts(sheet, options.max_width):
                if sheet.title:
                    yield Text(sheet.title, style="table.title")
                yield _table(sheet, columns, width=options.max_width)
            if sheet.notes:
                # Not the caption of a table, which would be broken to the table's width.
                yield Text("\n".join(sheet.notes), style="table.caption")


def to_terminal(sheets: tuple[Sheet, ...]) -> RenderableType:
    """What rich prints of the sheets; one with too many columns becomes several tables, each with the labels."""
    return _Sheets(tuple(map(_escaped, sheets)))


def _escaped(sheet: Sheet) -> Sheet:
    """The sheet with control characters written out, before anything is measured."""
    return Sheet(
        visible(sheet.title),
        tuple(replace(column, name=visible(column.name)) for column in sheet.columns),
        tuple(tuple(tuple(map(_escaped_cell, row)) for row in block) for block in sheet.blocks),
        notes=tuple(map(visible, sheet.notes)),
        beside=sheet.beside,
    )


def _escaped_cell(cell: Cell) -> Cell:
    value = visible(cell.value) if isinstance(cell.value, str) else cell.value
    return replace(cell, value=value, interval=visible(cell.interval))


def _parts(sheet: Sheet, width: int) -> list[list[int]]:
    """The columns of the tables that the sheet is shown as, the first column in each."""
    parts, room = [], 0
    for place in range(1, len(sheet.columns)):
        needed = _least(sheet, place) + _NARROW
        if needed > room:
            parts.append([0])
            room = width - _least(sheet, 0) - _EDGES
        parts[-1].append(place)
        room -= needed
    return parts or [[0]]


def _table(sheet: Sheet, columns: list[int], *, width: int) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=sheet.headed)
    natural = sum(_natural(sheet, place) + _WIDE for place in columns) - _WIDE
    table.collapse_padding = natural + _EDGES > width
    for place in columns:
        column, least = sheet.columns[place], _least(sheet, place)
        table.add_column(
            Text(column.name),
            justify=column.align,
            overflow="fold",
            min_width=least,
            no_wrap=_natural(sheet, place) <= least,
        )
    for block in sheet.blocks:
        for row in block:
            table.add_row(*(_drawn(row[place], sheet.columns[place], beside=sheet.beside) for place in columns))
        table.add_section()
    return table


def _natural(sheet: Sheet, place: int) -> int:
    """The width of a column when nothing in it is broken."""
    column = sheet.columns[place]
    cells = [_drawn(row[place], column, beside=sheet.beside).plain for row in sheet.rows]
    return max(cell_len(line) for text in (column.name, *cells) for line in text.split("\n"))


def _least(sheet: Sheet, place: int) -> int:
    """The width of a column that it has in every terminal."""
    natural = _natural(sheet, place)
    if not sheet.columns[place].wrap:
        return natural
    return min(natural, _TEXT_WIDTH if place else _LABEL_WIDTH)


def _drawn(cell: Cell, column: Column, *, beside: bool) -> Text:
    lines = cell.text.split("\n")
    if column.width:
        lines = [_cut(line, column.width) for line in lines]
    text = Text("\n".join(lines), style=cell.emphasis)
    if cell.link:
        text.stylize(f"link {cell.link}")
    if not cell.interval:
        return text
    return Text.assemble(text, " " if beside else "\n", (cell.interval, "dim"))


def _cut(line: str, width: int) -> str:
    """At most `width` cells of a line, with an ellipsis where it was cut; a file keeps its end."""
    if cell_len(line) <= width:
        return line
    if " " in line:
        return f"{set_cell_size(line, width - 1)}…"
    while cell_len(line) > width - 1:
        line = line[1:]
    return f"…{line}"
