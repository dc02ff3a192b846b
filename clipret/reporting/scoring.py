"""What eval shows of another scoring: for each protocol and head its figures beside those by cosine, and the gain."""

from collections.abc import Iterator

from clipret.config.choices import COSINE
from clipret.metrics import RSUM
from clipret.reporting.figures import is_unbounded
from clipret.reporting.metrics import figures_sheet
from clipret.reporting.sheets import Sheet


def scoring_sheets(report: dict, *, names: tuple[str, ...]) -> tuple[Sheet, ...]:
    """A table for each head by each protocol of metrics.json; none where cosine is all that was measured.

    names  of the metrics that are shown; rsum comes last
    """
    parts = [part for part in (report, *report.get("also", ())) if "scoring" in part]
    return tuple(sheet for part in parts for sheet in _sheets({**report, **part}, names=names))


def _sheets(measured: dict, *, names: tuple[str, ...]) -> Iterator[Sheet]:
    protocol, scoring = measured["protocol"], measured["scoring"]
    name, intervals = scoring["name"], scoring["intervals"]
    for head, results in scoring["results"].items():
        title = f"{head} by {name}, {measured['cache']['dataset']} {protocol['split']}, protocol {protocol['name']}"
        both = {
            "results": {COSINE: measured["results"][head], name: results},
            RSUM: {COSINE: measured[RSUM][head], name: scoring[RSUM][head]},
            "intervals": intervals
            and {
                "heads": {COSINE: measured["intervals"]["heads"][head], name: intervals["heads"][head]},
                "gain": intervals["gain"][head],
            },
        }
        yield figures_sheet(title, both, names=names, better=name, notes=_notes(measured, head, names=names))


def _notes(measured: dict, head: str, *, names: tuple[str, ...]) -> list[str]:
    protocol, scoring, split = measured["protocol"], measured["scoring"], measured["protocol"]["split"]
    name, bank, lines = scoring["name"], scoring["bank"], []
    for direction, parameters in scoring["parameters"][head].items():
        words = ", ".join(f"{parameter} {value:g}" for parameter, value in parameters.items())
        val = scoring["val"][head][direction]
        lines.append(f"{direction}: {words}; chosen on val, R@1 + R@5 + R@10 there {val[COSINE]:.3f} → {val[name]:.3f}")
    lines.append(f"bank: {bank['captions']:,} captions (t2i) and {bank['images']:,} images (i2t) of {bank['split']}")
    if split == "val":
        lines.append("the parameters were chosen on this split: expect less on other data")
    lines.append("percent; ties count against us")
    if measured["intervals"]:
        level = 100 * measured["intervals"]["level"]
        flips = f"the gain's by {measured['intervals']['resamples']:,} paired flips"
        lines.append(f"in brackets {level:.0f} % intervals over images; {flips}")
        if any(map(is_unbounded, names)):
            lines.append("a gain in ranks has no interval")
    if protocol["remarks"]:
        lines.append(f"not comparable with published figures: {'; '.join(protocol['remarks'])}")
    return [*lines, f"figures by {name} are not comparable with figures by cosine, which papers report"]
