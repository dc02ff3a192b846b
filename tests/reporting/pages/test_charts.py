"""Drawings show the numbers that they are given."""

import re
from xml.etree import ElementTree

import pytest

from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.charts import draw
from clipret.reporting.pages.markup import text


def draw_lines(title, lines, **settings):
    return draw(Chart("file", title, lines=lines, **settings))


def draw_circles(title, cells, **settings):
    return draw(Chart("file", title, cells=cells, **settings))


def svg(drawing):
    return ElementTree.fromstring(drawing[: drawing.index("</svg>") + 6])


def test_lines_are_linear_in_their_values():
    drawing = draw_lines(
        "t", [Line("a", [0, 1, 2], [0, 5, 10], low=[0, 4, 9], high=[1, 6, 10])], x=Axis("x"), y=Axis("y")
    )
    root = svg(drawing)
    path = next(element for element in root if element.get("class") == "line c0").get("d")
    points = [tuple(map(float, point.split(","))) for point in path[1:].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2
    assert any(element.get("class") == "band c0" for element in root)


@pytest.mark.parametrize(
    ("x", "y"), [([1], [0.5]), ([3, 3], [1, 1]), ([], []), ([1, 2], [float("nan"), 1.0]), ([1, 2], [3e38, 3e38])]
)
def test_single_equal_and_missing_values_are_drawn(x, y):
    svg(draw_lines("t", [Line("a", x, y)] if x else [], x=Axis("x"), y=Axis("y")))


def test_ticks_are_round_numbers_within_the_axis():
    drawing = draw_lines("t", [Line("a", [0, 30], [0.611, 0.687])], x=Axis("x"), y=Axis("y", form=".2f"))
    shown = [element.text for element in svg(drawing) if element.tag == "text" and element.get("text-anchor") == "end"]
    assert shown == ["0.62", "0.64", "0.66", "0.68"]
    drawing = draw_lines("t", [Line("a", [1, 100], [0, 1])], x=Axis("x", log=True), y=Axis("y"))
    assert [element.text for element in svg(drawing) if element.get("text-anchor") == "middle"][:3] == [
        "1",
        "10",
        "100",
    ]


def test_circles_grow_with_their_counts_and_tell_better_from_worse():
    axes = {"x": Axis("x", log=True, low=0.8, high=100), "y": Axis("y", log=True, low=0.8, high=100)}
    root = svg(draw_circles("t", [(1, 1, 100), (10, 2, 25), (2, 10, 1)], **axes))
    dots = [element for element in root if element.tag == "circle"]
    assert [dot.get("class") for dot in dots] == ["dot c0", "dot c1", "dot c2"]
    radii = [float(dot.get("r")) for dot in dots]
    assert radii[0] == pytest.approx(2 * radii[1], rel=0.01)
    assert radii[2] == 1.2


def test_names_are_text():
    drawing = draw_lines("<b>", [Line("<i>", [0, 1], [0, 1])], x=Axis("<u>"), y=Axis("&"), marks=[(0.5, "<s>")])
    assert not re.search(r"<(b|i|u|s)>", drawing)
    assert text("a\x00\u202e\x1b\n b") == "a\\x00\\u202e\\x1b b"
    assert text('"<') == "&quot;&lt;"
    assert len(text("x" * 10_000)) == 600
