r"""Sheets as LaTeX tables, with the rules of \usepackage{booktabs}."""

import re

from clipret.machine.escaping import visible
from clipret.reporting.sheets import Cell, Sheet

# A bracket or a star after the end of a row would belong to it.
_SIGNS = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--",
    "[": "{[}", "]": "{]}", "*": "{*}", "→": r"$\to$", "…": r"\ldots{}", "█": r"\rule{.4em}{1.4ex}", "\n": "; ",
    "|": r"\textbar{}", "`": r"\textasciigrave{}",
})  # fmt: skip
_ALIGNED = {"left": "l", "right": "r"}


def to_latex(sheets: tuple[Sheet, ...]) -> str:
    """The sheets as text: for each a table with a caption, and its notes in small print."""
    lines = ["% \\usepackage{booktabs}"]
    for sheet in sheets:
        lines += [r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{_escaped(sheet.title)}}}"] if sheet.title else []
        lines += [rf"\begin{{tabular}}{{{''.join(_ALIGNED[column.align] for column in sheet.columns)}}}", r"\toprule"]
        lines += [_row([_escaped(column.heading) for column in sheet.columns])] if sheet.headed else []
        for place, block in enumerate(sheet.blocks):
            lines += [r"\midrule"] if place or sheet.headed else []
            for row in block:
                lines += _rows(row)
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par{{\footnotesize {_escaped('; '.join(sheet.notes))}\par}}"] if sheet.notes else []
        lines += [r"\end{table}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(row: tuple[Cell, ...]) -> list[str]:
    lines = [_row([rf"\textbf{{{_escaped(c.text)}}}" if c.emphasis and c.text else _escaped(c.text) for c in row])]
    if any(cell.interval for cell in row):
        lines.append(_row([rf"{{\scriptsize {_escaped(cell.interval)}}}" if cell.interval else "" for cell in row]))
    return lines


def _row(words: list[str]) -> str:
    return " & ".join(words) + r" \\"


def _escaped(text: str) -> str:
    # Two hyphens of an option would become a dash.
    return re.sub("-(?=-)", "-\0", visible(text)).translate(_SIGNS).replace("\0", "{}")
