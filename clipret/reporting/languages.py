"""What eval shows of captions in several languages: a language a row, and their mean."""

from clipret.metrics import RSUM, heading_of
from clipret.reporting.figures import figure
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

# Of the metrics that are asked for, so many in each direction fit a line.
_MOST = 1


def language_sheets(report: dict, *, names: tuple[str, ...]) -> tuple[Sheet, ...]:
    """A table for each protocol that metrics.json has in several languages; none where it has none.

    names  of the metrics that are asked for, of which the first is shown: it of both directions, for every head

    The figures of a language are in metrics.json, and in a table of their own with --language.
    """
    shown = [name for name in names if name != RSUM][:_MOST]
    entries = {entry["protocol"]["name"]: entry for entry in (report, *report.get("also", ()))}
    return tuple(_sheet(report, mean, entries=entries, names=shown) for mean in report.get("languages", ()))


def _sheet(report: dict, mean: dict, *, entries: dict[str, dict], names: list[str]) -> Sheet:
    parts = {language: entries[f"{mean['protocol']}:{language}"] for language in mean["languages"]}
    first = next(iter(parts.values()))
    heads = list(first["results"])
    titles = [f"{direction} {heading_of(name)}" for direction in ("t2i", "i2t") for name in names]
    columns = [Column(f"{head} {title}" if len(heads) > 1 else title) for head in heads for title in titles]
    rows = [(language, *_cells(entry["results"], names)) for language, entry in parts.items()]
    cache, protocol = report["cache"], first["protocol"]
    remarks = {language: entry["protocol"]["remarks"] for language, entry in parts.items()}
    unlike = list(dict.fromkeys(remark for own in remarks.values() for remark in own))
    notes = [
        f"{len(parts)} languages, one at a time, among {protocol['t2i']['gallery']:,} images; the mean is over these",
        "percent; ties count against us; all metrics with their intervals: --language " + next(iter(parts)),
        *([f"not comparable with published figures: {'; '.join(unlike)}"] if unlike else []),
    ]
    title = f"{cache['dataset']} {protocol['split']}, {cache['model']}, protocol {mean['protocol']} by language"
    blocks = (tuple(rows), (("mean", *_cells(mean["results"], names)),))
    return Sheet(title, (LABEL, *columns), blocks, tuple(notes))


def _cells(results: dict, names: list[str]) -> list[Cell]:
    sides = [results[head][direction] for head in results for direction in ("t2i", "i2t")]
    return [figure(name, side[name]) for side in sides for name in names]
