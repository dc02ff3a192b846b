"""Sheets of text, which become tables for a terminal of any width, Markdown or LaTeX."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clipret.machine.escaping import visible

# Heading of a column of words, which may be broken, but for the longest of them.
VERDICT, _VERDICT_WIDTH = "verdict", len("difference")
# What a label has at least of a line.
_LABEL_WIDTH = 20
_EDGES = 2
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure: its text, what stands below it or in brackets behind it, and whether it stands out."""

    text: str
    under: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: column names, blocks of rows, and lines below. The first column is a label."""

    title: str
    header: tuple[str, ...]
    blocks: tuple[tuple[tuple[Cell, ...], ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A sheet in as many tables as its columns need at the width of the terminal, each with the labels."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Group]:
        parts, room = [], 0
        for place, width in enumerate(_widths(self.sheet)[1:], start=1):
            if width > room:
                parts.append([0])
                room = options.max_width - _label_width(self.sheet) - _EDGES
            parts[-1].append(place)
            room -= width
        for part in parts:
            yield sheet_table(self.sheet, columns=part, notes=self.sheet.notes if part is parts[-1] else ())


def to_markdown(sheets: tuple[Sheet, ...]) -> str:
    """The sheets as tables of GitHub's Markdown."""
    lines = []
    for sheet in sheets:
        lines += [f"**{_markdown(sheet.title)}**", "", _markdown_row(sheet.header)]
        lines.append(_markdown_row(["---", *["---:"] * (len(sheet.header) - 1)]))
        for block in sheet.blocks:
            lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in block]
        lines += ["", *(f"{_markdown(note)}  " for note in sheet.notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(sheets: tuple[Sheet, ...]) -> str:
    r"""The sheets as LaTeX tables; they need \usepackage{booktabs}."""
    lines = ["% \\usepackage{booktabs}"]
    for sheet in sheets:
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{_latex(sheet.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}", r"\toprule"]
        lines.append(_latex_row([_latex(name) for name in sheet.header]))
        for block in sheet.blocks:
            lines.append(r"\midrule")
            for row in block:
                lines.append(_latex_row([rf"\textbf{{{_latex(c.text)}}}" if c.bold else _latex(c.text) for c in row]))
                if any(cell.under for cell in row):
                    under = [rf"{{\scriptsize {_latex(cell.under)}}}" if cell.under else "" for cell in row]
                    lines.append(_latex_row(under))
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par{{\footnotesize {_latex('; '.join(sheet.notes))}\par}}"] if sheet.notes else []
        lines += [r"\end{table}", ""]
    return "\n".join(lines).rstrip() + "\n"


def sheet_table(sheet: Sheet, *, columns: list[int], notes: tuple[str, ...]) -> Group:
    """Some columns of a sheet as a table for a terminal, with notes below it."""
    table = Table(title=escape(sheet.title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.collapse_padding = True
    for place in columns:
        # A figure may not be broken; a label and a verdict give way.
        words = sheet.header[place] == VERDICT
        label = {"min_width": _label_width(sheet), "no_wrap": _widths(sheet)[0] - 2 <= _LABEL_WIDTH}
        told = {"justify": "right", "no_wrap": not words, "min_width": _VERDICT_WIDTH if words else None}
        told = told if place else label
        table.add_column(escape(_stacked(sheet.header[place])), **told)
    for block in sheet.blocks:
        for row in block:
            table.add_row(*(_rich_cell(row[place]) for place in columns))
        table.add_section()
    # Not the table's caption, which would be broken to the width of the table.
    return Group(table, Text("\n".join(notes) + "\n", style="table.caption")) if notes else Group(table)


def _stacked(heading: str) -> str:
    """Directions above their metrics and the like, where headings are wider than what is below them."""
    return heading.replace("2t ", "2t\n").replace("2i ", "2i\n").replace(" (", "\n(")


def _widths(sheet: Sheet) -> list[int]:
    """Of each column, with the space before it."""
    rows = [row for block in sheet.blocks for row in block]
    lines = [
        [*_stacked(name).split("\n"), *(text for row in rows for text in (row[place].text, row[place].under))]
        for place, name in enumerate(sheet.header)
    ]
    return [max(map(cell_len, column)) + 2 for column in lines]


def _label_width(sheet: Sheet) -> int:
    return min(_LABEL_WIDTH, _widths(sheet)[0] - 2)


def _rich_cell(cell: Cell) -> str:
    text = f"[bold]{escape(cell.text)}[/bold]" if cell.bold else escape(cell.text)
    return f"{text}\n[dim]{escape(cell.under)}[/dim]" if cell.under else text


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_markdown(cell.text)}**" if cell.bold else _markdown(cell.text)
    return f"{text} ({_markdown(cell.under)})" if cell.under else text


def _markdown_row(words) -> str:
    return f"| {' | '.join(words)} |"


def _markdown(text: str) -> str:
    # What Markdown would read as its own.
    text = visible(text.replace("\n", " "))
    for sign in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(sign, f"\\{sign}")
    return text


def _latex_row(words: list[str]) -> str:
    return " & ".join(words) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in visible(text))
