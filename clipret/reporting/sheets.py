"""Sheets: what every table is built as, whatever form it is shown in. This module draws nothing."""

from dataclasses import dataclass

Value = str | int | float


@dataclass(frozen=True)
class Cell:
    """A text or a number of a table.

    value     a text, which may have several lines, or a number
    form      how the number is written, as by format(): ",", ".1f", "+.3f"; CSV has the number itself
    interval  of the number: shown smaller, beside or below it
    emphasis  "", "bold", or "red" for what is wrong
    link      address that a terminal opens on a click, such as file:///photos/cat.jpg; other forms leave it out
    """

    value: Value = ""
    form: str = ""
    interval: str = ""
    emphasis: str = ""
    link: str = ""

    @property
    def text(self) -> str:
        """The value as people read it."""
        return self.value if isinstance(self.value, str) else format(self.value, self.form)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    name   its heading; a line break in it is for terminals
    align  left or right
    unit   of its numbers, for the forms that travel without notes: CSV and HTML
    wrap   whether a terminal may break its texts into lines; numbers are never broken
    width  in a terminal, longer lines are cut to so many characters
    """

    name: str = ""
    align: str = "right"
    unit: str = ""
    wrap: bool = False
    width: int | None = None

    @property
    def heading(self) -> str:
        """The name in one line."""
        return self.name.replace("\n", " ")


LABEL = Column(align="left", wrap=True)


@dataclass(frozen=True)
class Sheet:
    """A table: blocks of rows under one heading, a title above and notes below.

    blocks  rows of cells; a text or a number may stand for its cell, and a row may end early
    beside  whether a terminal shows intervals beside the numbers, and not below them
    """

    title: str
    columns: tuple[Column, ...]
    blocks: tuple[tuple[tuple[Cell, ...], ...], ...]
    notes: tuple[str, ...] = ()
    beside: bool = False

    def __post_init__(self):
        blocks = tuple(tuple(self._whole(row) for row in block) for block in self.blocks)
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "notes", tuple(self.notes))

    def _whole(self, row) -> tuple[Cell, ...]:
        cells = tuple(cell if isinstance(cell, Cell) else Cell("" if cell is None else cell) for cell in row)
        return cells + (Cell(),) * (len(self.columns) - len(cells))

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """Those of all blocks."""
        return [row for block in self.blocks for row in block]

    @property
    def headed(self) -> bool:
        """Whether any column has a name."""
        return any(column.name for column in self.columns)


def heading_cell(text: str) -> Cell:
    """The label of a row that only heads the ones below it."""
    return Cell(text, emphasis="bold")
