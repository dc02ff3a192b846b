"""Sheets as CSV, with numbers as they are: in full, and without separators."""

import csv
import io

from clipret.machine.escaping import csv_cell
from clipret.reporting.sheets import Sheet


def to_csv(sheets: tuple[Sheet, ...]) -> str:
    """The sheets as text, an empty line between them; title, heading and notes only where a sheet has them.

    A column with intervals is followed by one of them.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for place, sheet in enumerate(sheets):
        lines = [[]] if place else []
        lines += [[sheet.title]] if sheet.title else []
        lines += _table(sheet)
        lines += [[], *([note] for note in sheet.notes)] if sheet.notes else []
        writer.writerows([csv_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _table(sheet: Sheet) -> list[list]:
    with_intervals = {place for place in range(len(sheet.columns)) if any(row[place].interval for row in sheet.rows)}

    def line(values: list, intervals: list) -> list:
        pairs = enumerate(zip(values, intervals, strict=True))
        return [value for place, pair in pairs for value in (pair if place in with_intervals else pair[:1])]

    lines = [line([cell.value for cell in row], [cell.interval for cell in row]) for row in sheet.rows]
    if not sheet.headed:
        return lines
    names = [column.heading + (f" ({column.unit})" if column.unit else "") for column in sheet.columns]
    return [line(names, [f"{column.heading} interval".lstrip() for column in sheet.columns]), *lines]
