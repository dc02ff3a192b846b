"""What a report on several seeds of the same settings has beside those on the runs."""

from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.curves import CHARTS
from clipret.reporting.pages.parts.part import drawn

TITLE = "Training over seeds"
# All seeds have the same learning rates.
_DRAWN = CHARTS[:-1]


def seed_charts(curves: dict, *, number: int) -> list[Chart]:
    """The drawings of the history, a line for the mean and a band from the lowest to the highest.

    curves  what findings.seeds.seed_curves returned
    number  of the group of runs, in the names of files
    """
    charts, columns = [], curves["columns"]
    for file, title, names, form in _DRAWN:
        lines = [
            Line(name, of["epoch"], of["mean"], of["low"], of["high"], kind=kind)
            for kind, (column, name) in enumerate(names.items(), start=1)
            if (of := columns.get(column))
        ]
        if lines:
            axes = {"x": Axis("epoch"), "y": Axis(" and ".join(names.values()), form=form)}
            caption = f"{title}: the mean of {len(curves['runs'])} seeds, in a band from the lowest to the highest"
            charts.append(Chart(f"seeds-{number}-{file}", title, lines=lines, caption=caption, **axes))
    return charts


def seed_part(curves: dict, charts: list[Chart]) -> tuple[str, str]:
    """(heading, HTML)."""
    said = f"{', '.join(curves['runs'])}: the same settings with other seeds, as far as all of them went."
    return TITLE, element("p", text(said), kind="soft") + drawn(charts)
