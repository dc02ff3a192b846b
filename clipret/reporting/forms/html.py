"""Sheets as HTML: tables that any page may hold, and a page of them."""

from html import escape

from clipret.machine.escaping import visible
from clipret.reporting.sheets import Cell, Column, Sheet

_STYLE = (
    "body{font-family:sans-serif}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .6em}"
    "thead,tbody{border-bottom:1px solid}caption{text-align:left;font-weight:bold}small{opacity:.7}"
    ".left{text-align:left}.right{text-align:right}.red{color:#b00}"
)


def to_html(sheets: tuple[Sheet, ...]) -> str:
    """A page of the sheets, which needs no other file."""
    title = _escaped(next((sheet.title for sheet in sheets if sheet.title), "clipret").replace("\n", " "))
    head = f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
    return f"{head}<style>{_STYLE}</style>\n{''.join(map(html_table, sheets))}</html>\n"


def html_table(sheet: Sheet) -> str:
    """A sheet as a table and its notes."""
    lines = ["<table>"]
    lines += [f"<caption>{_escaped(sheet.title)}</caption>"] if sheet.title else []
    if sheet.headed:
        lines.append(f"<thead><tr>{''.join(map(_heading, sheet.columns))}</tr></thead>")
    for block in sheet.blocks:
        lines.append("<tbody>")
        lines += [f"<tr>{''.join(map(_cell, row, sheet.columns))}</tr>" for row in block]
        lines.append("</tbody>")
    lines.append("</table>")
    lines += [f"<p>{'<br>'.join(map(_escaped, sheet.notes))}</p>"] if sheet.notes else []
    return "\n".join(lines) + "\n"


def _heading(column: Column) -> str:
    unit = f" <small>{_escaped(column.unit)}</small>" if column.unit else ""
    return f'<th class="{column.align}">{_escaped(column.heading)}{unit}</th>'


def _cell(cell: Cell, column: Column) -> str:
    text = _escaped(cell.text)
    if cell.emphasis and text:
        text = f'<strong class="{cell.emphasis}">{text}</strong>'
    text += f" <small>{_escaped(cell.interval)}</small>" if cell.interval else ""
    return f'<td class="{column.align}">{text}</td>'


def _escaped(text: str) -> str:
    return escape(visible(text)).replace("\n", "<br>")
