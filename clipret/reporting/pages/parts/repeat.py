"""The commands, versions and fingerprints that lead to the same figures."""

import shlex

from clipret.config import TrainConfig
from clipret.config.commands import command_of
from clipret.machine.escaping import visible
from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.markup import element, scrolling, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Column, Sheet


def _render(found: dict, pictures: Pictures) -> str:
    record, metrics = found["config"], found["metrics"]
    commands = [f"clipret eval --head {shlex.quote(found['run'])}", f"clipret report {shlex.quote(found['run'])}"]
    if "soup" not in record:
        commands.insert(0, command_of("train", TrainConfig, settings=record["config"]))
    rows = [
        ("cache", metrics["cache"]["fingerprint"]),
        ("queries and items", metrics["protocol"]["digest"]),
        *record.get("versions", {}).items(),
    ]
    sheet = Sheet("Fingerprints and versions", (LABEL, Column(align="left")), (tuple(rows),))
    lines = "\n".join(text(visible(command)) for command in commands)
    return element("pre", lines) + scrolling(html_table(sheet))


PART = Part("How to repeat it", _render)
