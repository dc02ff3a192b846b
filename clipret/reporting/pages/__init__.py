"""Pages that people open: one HTML file each, which needs nothing else and asks nobody.

PARTS is the table of what a report on a run has, in its order: a new part is a file in `parts` that binds PART
(parts.part says what it needs to have), and a row here.
"""

# Part -> the module that binds it.
PARTS: dict[str, str] = {
    "figures": "clipret.reporting.pages.parts.figures",
    "published": "clipret.reporting.pages.parts.published",
    "curves": "clipret.reporting.pages.parts.curves",
    "mixing": "clipret.reporting.pages.parts.mixing",
    "recall": "clipret.reporting.pages.parts.recall",
    "galleries": "clipret.reporting.pages.parts.galleries",
    "similarities": "clipret.reporting.pages.parts.similarities",
    "hubs": "clipret.reporting.pages.parts.hubs",
    "where": "clipret.reporting.pages.parts.where",
    "repeat": "clipret.reporting.pages.parts.repeat",
}
