"""What a comparison shows: figures with intervals, and every pair's test, as tables for a terminal, Markdown or LaTeX.

All are made from the same sheets of text. CSV is made for programs, and has plain numbers.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clipret.config.columns import RSUM
from clipret.config.comparison import A_BETTER, B_BETTER, LOWER_IS_BETTER, NOT_SHOWN

# Pairs that are shown whole in a terminal, and what a label has at least of a line there.
_MOST_PAIRS = 10
_LABEL_WIDTH = 20
_EDGES, _VERDICT = 2, "verdict"
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


def comparison_sheets(result: dict) -> tuple[Sheet, Sheet]:
    """What compare returned: the figures of the groups, and the differences of the pairs."""
    return _figures(result), _differences(result)


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
            yield _table(self.sheet, columns=part, notes=self.sheet.notes if part is parts[-1] else ())


def comparison_tables(result: dict) -> tuple[Fitted | Group, ...]:
    """The sheets for a terminal; of many pairs only the differences that are shown."""
    figures, differences = comparison_sheets(result)
    notes = differences.notes
    if len(differences.blocks) > _MOST_PAIRS:
        # The verdict is the last cell.
        rows = tuple(row for block in differences.blocks for row in block if row[-1].text != NOT_SHOWN)
        notes = (f"of {len(differences.blocks)} pairs only the differences that are shown; all with --json", *notes)
        differences = Sheet(differences.title, differences.header, (rows,) if rows else ())
    return Fitted(figures), _table(differences, columns=list(range(len(differences.header))), notes=notes)


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


def to_csv(result: dict) -> str:
    """A line each figure of a group and each difference of a pair, fractions as they are."""
    text = io.StringIO(newline="")
    names = ["kind", "a", "b", "label", "seeds", "direction", "metric", "value", "low", "high", "spread"]
    lines = csv.DictWriter(text, [*names, "p", "p_holm", "verdict"], restval="", lineterminator="\n")
    lines.writeheader()
    for group in result["groups"]:
        about = {"kind": "group", "a": group["name"], "label": group["label"], "seeds": len(group["seeds"])}
        for direction, metric in _columns(result):
            value, (low, high), spread = (
                _of(group[what], direction, metric) for what in ("values", "intervals", "spread")
            )
            place = {"direction": direction or "", "metric": metric}
            spread = "" if spread is None else spread
            lines.writerow({**about, **place, "value": value, "low": low, "high": high, "spread": spread})
    for pair in result["pairs"]:
        low, high = pair["interval"]
        figures = {"value": pair["difference"], "low": low, "high": high, "direction": pair["direction"] or ""}
        told = {name: pair[name] for name in ("a", "b", "metric", "p", "p_holm", "verdict")}
        lines.writerow({"kind": "pair", **told, **figures})
    return text.getvalue()


def _figures(result: dict) -> Sheet:
    protocol, columns = result["protocol"], _columns(result)
    best = _best(result)
    rows = []
    for number, group in enumerate(result["groups"], start=1):
        seeds = f" ({len(group['seeds'])} seeds)" if group["spread"] else ""
        cells = [Cell(f"{number} {group['label']}{seeds}")]
        for direction, metric in columns:
            value, (low, high), spread = (
                _of(group[what], direction, metric) for what in ("values", "intervals", "spread")
            )
            told = _figure(metric, value) + ("" if spread is None else f"±{_figure(metric, spread)}")
            under = f"{_figure(metric, low)}–{_figure(metric, high)}"
            cells.append(Cell(told, under, bold=best.get((direction, metric)) == group["name"]))
        rows.append(tuple(cells))
    header = ("", *(_heading(direction, metric) for direction, metric in columns))
    title = f"{protocol['split']}, protocol {protocol['name']}"
    return Sheet(title, header, (tuple(rows),), tuple(_figure_notes(result)))


def _figure_notes(result: dict) -> list[str]:
    protocol, groups = result["protocol"], result["groups"]
    units = f"percent; rsum from 0 to {2 * len(result['k'])}" if RSUM in result["metrics"] else "percent"
    folds = f", mean of {protocol['folds']} galleries" if protocol["folds"] > 1 else ""
    notes = [
        f"{units}; ties count against us; {protocol['images']:,} images, {protocol['captions']:,} captions{folds}",
        f"intervals: {100 * result['level']:g} %, from {result['resamples']:,} draws of images with their captions",
    ]
    if any(group["spread"] for group in groups):
        notes.append("±: standard deviation over seeds; intervals of several seeds cover other seeds too")
    if any(len(group["seeds"]) == 1 for group in groups):
        notes.append("a run of one seed stands for itself, not for its settings")
    notes.append("bold: shown to be better than every other")
    models = list(dict.fromkeys(group["model"] for group in groups))
    if len(models) > 1:
        notes.append("models: " + ", ".join(f"{place} {each['model']}" for place, each in enumerate(groups, start=1)))
    return notes + list(result["remarks"])


def _differences(result: dict) -> Sheet:
    numbers = {group["name"]: number for number, group in enumerate(result["groups"], start=1)}
    blocks: dict[str, list] = {}
    for pair in result["pairs"]:
        a, b, metric = numbers[pair["a"]], numbers[pair["b"]], pair["metric"]
        verdict = {A_BETTER: f"{a} better", B_BETTER: f"{b} better"}.get(pair["verdict"], NOT_SHOWN)
        low, high = (_figure(metric, end, sign=True) for end in pair["interval"])
        told = (f"{a} - {b}", _heading(pair["direction"], metric), _figure(metric, pair["difference"], sign=True))
        cells = (*told, f"{low} to {high}", _chance(pair["p"]), _chance(pair["p_holm"]), verdict)
        blocks.setdefault(told[0], []).append(tuple(map(Cell, cells)))
    header = ("", "metric", "gain", f"{100 * result['level']:g} % interval", "p", "p (Holm)", _VERDICT)
    return Sheet("differences", header, tuple(map(tuple, blocks.values())), tuple(_test_notes(result)))


def _test_notes(result: dict) -> list[str]:
    notes = []
    if result["flips"]:
        notes.append(f"p of two runs: two-sided, paired, {result['flips']:,} sign flips over images")
    if any(group["spread"] for group in result["groups"]):
        notes.append("p with several seeds: two-sided, Welch's t over images and seeds")
    notes.append(f"p (Holm): corrected for the {result['family']} tests here; intervals are not")
    return [*notes, f"a difference is shown where p (Holm) is at most {result['alpha']:g}"]


def _best(result: dict) -> dict[tuple, str]:
    """Column -> the group that is better than every other, where there is one."""
    wins: dict[tuple, list[str]] = {}
    for pair in result["pairs"]:
        winner = {A_BETTER: pair["a"], B_BETTER: pair["b"]}.get(pair["verdict"])
        wins.setdefault((pair["direction"], pair["metric"]), []).append(winner)
    others = len(result["groups"]) - 1
    return {
        column: group["name"]
        for column, winners in wins.items()
        for group in result["groups"]
        if winners.count(group["name"]) == others
    }


def _columns(result: dict) -> list[tuple[str | None, str]]:
    values = result["groups"][0]["values"]
    columns = [(direction, metric) for direction in ("t2i", "i2t") for metric in values[direction]]
    return columns + ([(None, RSUM)] if RSUM in values else [])


def _of(figures: dict | None, direction: str | None, metric: str):
    if figures is None:
        return None
    return figures[metric] if direction is None else figures[direction][metric]


def _heading(direction: str | None, metric: str) -> str:
    told = metric.replace("_rank", " rank")
    return told if direction is None else f"{direction} {told}"


def _figure(metric: str, value: float, *, sign: bool = False) -> str:
    scaled = value if metric in (*LOWER_IS_BETTER, RSUM) else 100 * value
    digits = 3 if metric == RSUM else 1
    told = f"{scaled:+.{digits}f}" if sign else f"{scaled:.{digits}f}"
    # No sign where nothing but zeros is left.
    return told if any(digit in "123456789" for digit in told) else told.lstrip("+-")


def _chance(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _table(sheet: Sheet, *, columns: list[int], notes: tuple[str, ...]) -> Group:
    table = Table(title=escape(sheet.title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.collapse_padding = True
    for place in columns:
        # A figure may not be broken; a label and a verdict give way.
        words = sheet.header[place] == _VERDICT
        label = {"min_width": _label_width(sheet), "no_wrap": _widths(sheet)[0] - 2 <= _LABEL_WIDTH}
        told = {"justify": "right", "no_wrap": not words} if place else label
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
    for sign in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(sign, f"\\{sign}")
    return text


def _latex_row(words: list[str]) -> str:
    return " & ".join(words) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
