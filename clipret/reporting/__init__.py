"""Every table that people see, as sheets, and the forms that sheets are shown in. Builds and draws; decides nothing.

A new section is one file here and one row in SECTIONS; a new form is one file in `forms` and one row in FORMS.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def later(place: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is first called; `place` is MODULE:FUNCTION."""
    module, _, name = place.partition(":")

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments, **options)

    return call


# Section -> a function of a stage's result, with options of its own, that returns a tuple of sheets.
SECTIONS: dict[str, Callable[..., Any]] = {
    "check": later("data:check_sheets"),
    "info": later("caches:info_sheets"),
    "machine": later("machine:machine_sheets"),
    "models": later("models:models_sheets"),
    "models-records": later("models:models_records"),
    "verify": later("caches:verification_sheets"),
    "train": later("training:training_sheets"),
    "evaluate": later("evaluation:evaluation_sheets"),
    "eval": later("metrics:metrics_sheets"),
    "wise-ft": later("curve:curve_sheets"),
    "scoring": later("scoring:scoring_sheets"),
    "failures": later("failures:failures_sheets"),
    "compare": later("comparison:comparison_sheets"),
    "compare-records": later("comparison:comparison_records"),
    "reproduce": later("reproduction:reproduction_sheets"),
    "published": later("reproduction:published_sheets"),
    "sweep": later("sweep:sweep_sheets"),
}

# Form -> a function of a tuple of sheets: for `terminal` what rich prints, for the others text.
FORMS: dict[str, Callable[..., Any]] = {
    "terminal": later("forms.terminal:to_terminal"),
    "markdown": later("forms.markdown:to_markdown"),
    "latex": later("forms.latex:to_latex"),
    "csv": later("forms.csv:to_csv"),
    "html": later("forms.html:to_html"),
}
