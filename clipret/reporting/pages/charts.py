"""Drawings in SVG: lines with bands, and circles. Colours are classes, so that a page can be dark, and differ in
lightness and in dashes, so that they survive grey printing."""

import math
from collections.abc import Callable, Sequence

from clipret.reporting.pages.chart import MOVES, Axis, Chart, Line, move_of
from clipret.reporting.pages.markup import text

_WIDTH, _HEIGHT = 460, 280
# Of drawings with several axes.
_WIDE = 920
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44
_TICKS = 5


def draw(chart: Chart) -> str:
    """A drawing and its legend."""
    return _circles(chart) if chart.cells else _lines(chart)


def _lines(chart: Chart) -> str:
    lines, marks = chart.lines, chart.marks
    values = [value for line in lines for values in (line.y, line.low or (), line.high or ()) for value in values]
    across = _Scale(chart.x, [at for line in lines for at in line.x], _LEFT, _WIDTH - _RIGHT)
    up = _Scale(chart.y, values, _HEIGHT - _BOTTOM, _TOP)
    drawn = [_grid(across, up)]
    for line in lines:
        if line.low is not None and line.high is not None:
            there = [f"{across(at):.1f},{up(value):.1f}" for at, value in zip(line.x, line.high, strict=True)]
            back = [f"{across(at):.1f},{up(value):.1f}" for at, value in zip(line.x, line.low, strict=True)]
            drawn.append(f'<polygon class="band c{line.kind}" points="{" ".join([*there, *reversed(back)])}"/>')
        drawn.append(f'<path class="line c{line.kind}" d="{_path(line, across, up)}"/>')
    for at, name in marks:
        place = across(at)
        drawn.append(f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        anchor = "end" if place > _WIDTH * 0.7 else "start"
        shift = -4 if anchor == "end" else 4
        drawn.append(_words(name, place + shift, _TOP + 10, anchor=anchor, kind="name"))
    return _svg(chart.title, drawn) + _legend([(line.name, line.kind) for line in lines])


def _circles(chart: Chart) -> str:
    cells = chart.cells
    across = _Scale(chart.x, [cell[0] for cell in cells], _LEFT, _WIDTH - _RIGHT)
    up = _Scale(chart.y, [cell[1] for cell in cells], _HEIGHT - _BOTTOM, _TOP)
    most = max(cell[2] for cell in cells)
    low, high = max(across.low, up.low), min(across.high, up.high)
    ends = f'x1="{across(low):.1f}" y1="{up(low):.1f}" x2="{across(high):.1f}" y2="{up(high):.1f}"'
    drawn = [_grid(across, up), f'<line class="mark" {ends}/>']
    for cell in cells:
        at, value, count = cell
        place = f'cx="{across(at):.1f}" cy="{up(value):.1f}" r="{max(1.2, 12 * math.sqrt(count / most)):.1f}"'
        said = f"<title>{at:.0f} to {value:.0f}: {count:,}</title>"
        drawn.append(f'<circle class="dot c{move_of(cell)}" {place}>{said}</circle>')
    return _svg(chart.title, drawn) + _legend(list(MOVES))


def points_chart(
    title: str,
    points: Sequence[tuple[float, float, str, int]],
    *,
    legend: list[tuple[str, int]],
    x: Axis,
    y: Axis,
) -> str:
    """Points of (x, y, name, number of their colour)."""
    across = _Scale(x, [point[0] for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Scale(y, [point[1] for point in points], _HEIGHT - _BOTTOM, _TOP)
    drawn = [_grid(across, up)]
    for at, value, name, kind in points:
        said = text(f"{name}: {at:{x.form}}, {value:{y.form}}")
        place = f'cx="{across(at):.1f}" cy="{up(value):.1f}" r="5"'
        drawn.append(f'<circle class="dot c{kind}" {place}><title>{said}</title></circle>')
    return _svg(title, drawn) + _legend(legend)


def parallel_chart(
    title: str, axes: Sequence[tuple[str, list[str]]], lines: Sequence[tuple[list[str], float]], *, value: str
) -> str:
    """A line for each of `lines` through its text on each axis, to its value on a last one; the best third stands out.

    axes   (name, its texts from bottom to top)
    lines  (a text for each axis, value)
    """
    values = sorted(number for _, number in lines)
    good = values[-max(1, len(values) // 3)]
    step = (_WIDE - _LEFT - 60) / len(axes)
    places = [_LEFT + step * number for number in range(len(axes) + 1)]
    last = _Scale(Axis(value, form=".3f"), values, _HEIGHT - _BOTTOM, _TOP)
    heights = [{word: _height(number, len(words)) for number, word in enumerate(words)} for _, words in axes]
    drawn = []
    for words, number in sorted(lines, key=lambda line: line[1]):
        points = [f"{x:.1f},{height[word]:.1f}" for x, height, word in zip(places, heights, words, strict=False)]
        points.append(f"{places[-1]:.1f},{last(number):.1f}")
        said = text(f"{', '.join(words)}: {number:.3f}")
        kind = 1 if number >= good else 0
        drawn.append(f'<polyline class="thin c{kind}" points="{" ".join(points)}"><title>{said}</title></polyline>')
    ends = [*((name, heights[number]) for number, (name, _) in enumerate(axes)), (value, None)]
    for x, (name, height) in zip(places, ends, strict=True):
        drawn.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        drawn.append(_words(name, x, _HEIGHT - 12, kind="name"))
        ticks = height.items() if height else ((f"{tick:.3f}", last(tick)) for tick in last.ticks())
        drawn += [_words(word, x + 5, y - 4, anchor="start") for word, y in ticks]
    return _svg(title, drawn, width=_WIDE) + _legend([("the best third", 1), ("others", 0)])


def _height(number: int, count: int) -> float:
    bottom, top = _HEIGHT - _BOTTOM, _TOP + 12
    return (bottom + top) / 2 if count == 1 else bottom - (bottom - top) * number / (count - 1)


class _Scale:
    """Values of an axis -> places of the drawing."""

    def __init__(self, axis: Axis, values: Sequence[float], first: float, last: float):
        known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
        low = min(known) if axis.low is None else axis.low
        high = max(known) if axis.high is None else axis.high
        if high <= low:
            # A half is lost beside a number of 1e17.
            margin = max(0.5, abs(low) * 1e-9)
            low, high = (low / 2, low * 2) if axis.log and low > 0 else (low - margin, low + margin)
        self.axis, self.low, self.high, self._first, self._last = axis, low, high, first, last
        self._of: Callable[[float], float] = math.log if axis.log else float

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        if self.axis.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = 10 ** math.floor(math.log10((self.high - self.low) / _TICKS))
        step *= next((factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= _TICKS), 10)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _path(line: Line, across: _Scale, up: _Scale) -> str:
    points = [(across(at), up(value)) for at, value in zip(line.x, line.y, strict=True)]
    if not line.stepped:
        return "M" + "L".join(f"{at:.1f},{value:.1f}" for at, value in points)
    parts = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    parts += [f"H{at:.1f}V{value:.1f}" for at, value in points[1:]]
    return "".join(parts)


def _grid(across: _Scale, up: _Scale) -> str:
    drawn, bottom = [], _HEIGHT - _BOTTOM
    for value in up.ticks():
        place = up(value)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        drawn.append(_words(format(value, up.axis.form), _LEFT - 6, place + 4, anchor="end"))
    for value in across.ticks():
        drawn.append(_words(format(value, across.axis.form), across(value), bottom + 18))
    drawn.append(_words(across.axis.name, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, kind="name"))
    turned = f"translate(13,{(_TOP + bottom) / 2}) rotate(-90)"
    drawn.append(f'<text class="name" transform="{turned}" text-anchor="middle">{text(up.axis.name)}</text>')
    return "".join(drawn)


def _words(words: str, x: float, y: float, *, anchor: str = "middle", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _svg(title: str, drawn: list[str], *, width: int = _WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{text(title)}"><title>{text(title)}</title>'
        f"{''.join(drawn)}</svg>"
    )


def _legend(names: list[tuple[str, int]]) -> str:
    entries = [f'<span class="key c{kind}">{text(name)}</span>' for name, kind in names]
    return f'<p class="legend">{" ".join(entries)}</p>'
