"""The drawings of a report for a paper: SVG and PDF by matplotlib, as wide as a column of two, and tables in LaTeX."""

from pathlib import Path

from clipret.config import EvalConfig
from clipret.machine.files import replaced
from clipret.reporting import FORMS, SECTIONS
from clipret.reporting.pages.chart import MOVES, Axis, Chart, move_of

# In inches; fonts are those of captions.
_SIZE = (3.3, 2.3)
# They differ in lightness, and lines in their dashes, so that they survive grey printing.
_COLOURS = ("#7a8594", "#1f4fa3", "#c26a1b", "#5b2a86", "#0b6b3a")
_DASHES = ("--", "-", ":", "-.", (0, (8, 2)))
_STYLE = {
    "axes.grid": True,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 8,
    "grid.alpha": 0.4,
    "grid.linewidth": 0.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
    # TrueType in PDF, outlines in SVG: nothing depends on the fonts of who reads it.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "clipret",
}
_ENDINGS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def write_figures(folder: Path, found: dict, charts: list[Chart]) -> list[str]:
    """Write NAME.svg and NAME.pdf of every drawing, figures.tex and failures.tex; returns the names of the files.

    found  what findings.stage found of a run

    Raises OSError.
    """
    names = write_charts(folder, charts)
    tables = {
        "figures.tex": SECTIONS["eval"](found["metrics"], names=EvalConfig().columns),
        "failures.tex": SECTIONS["failures"](found["failures"]),
    }
    for name, sheets in tables.items():
        with replaced(folder / name) as unfinished:
            unfinished.write_text(FORMS["latex"](sheets), encoding="utf-8", errors="backslashreplace")
        names.append(name)
    return names


def write_charts(folder: Path, charts: list[Chart]) -> list[str]:
    """Write NAME.svg and NAME.pdf of every drawing; returns the names of the files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    return [name for chart in charts for name in _write(folder, chart)]


def _write(folder: Path, chart: Chart) -> list[str]:
    import matplotlib
    from matplotlib.figure import Figure

    names = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        (_draw_circles if chart.cells else _draw_lines)(axes, chart)
        _set_axis(axes.xaxis, chart.x, axes.set_xlim)
        _set_axis(axes.yaxis, chart.y, axes.set_ylim)
        axes.legend(loc="best")
        for ending, metadata in _ENDINGS.items():
            path = folder / f"{chart.name}.{ending}"
            with replaced(path) as unfinished:
                figure.savefig(unfinished, format=ending, metadata=metadata)
            names.append(path.name)
    return names


def _draw_lines(axes, chart: Chart) -> None:
    for line in chart.lines:
        style = {"color": _COLOURS[line.kind % len(_COLOURS)], "linestyle": _DASHES[line.kind % len(_DASHES)]}
        steps = {"drawstyle": "steps-post"} if line.stepped else {}
        axes.plot(line.x, line.y, label=_plain(line.name), linewidth=1.3, **style, **steps)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.15, linewidth=0)
    for at, name in chart.marks:
        axes.axvline(at, color="black", linewidth=0.7, linestyle=(0, (2, 2)), label=_plain(name))


def _draw_circles(axes, chart: Chart) -> None:
    most = max(cell[2] for cell in chart.cells)
    for name, kind in MOVES:
        cells = [cell for cell in chart.cells if move_of(cell) == kind]
        if cells:
            x, y, counts = zip(*cells, strict=True)
            sizes = [max(1.0, 120 * count / most) for count in counts]
            axes.scatter(x, y, s=sizes, color=_COLOURS[kind], label=name, linewidths=0, alpha=0.8)
    axes.axline((1, 1), (10, 10), color="black", linewidth=0.7, linestyle=(0, (2, 2)))


def _set_axis(drawn, axis: Axis, set_ends) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if axis.log:
        drawn.axes.set(**{f"{drawn.axis_name}scale": "log"})
        drawn.set_minor_formatter(NullFormatter())
    drawn.set_major_formatter(FuncFormatter(lambda value, place: format(value, axis.form)))
    drawn.set_label_text(_plain(axis.name))
    set_ends(axis.low, axis.high)


def _plain(words: str) -> str:
    """Words as they are: a dollar would begin mathematics."""
    return words.replace("$", r"\$")
