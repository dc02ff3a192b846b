"""The figures of eval, with their intervals, and every caveat."""

from clipret.config import EvalConfig
from clipret.reporting import SECTIONS
from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.markup import scrolling
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures


def _render(found: dict, pictures: Pictures) -> str:
    sheets = SECTIONS["eval"](found["metrics"], names=EvalConfig().columns)
    return scrolling(*map(html_table, sheets))


PART = Part("Figures", _render)
