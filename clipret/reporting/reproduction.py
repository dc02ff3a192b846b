"""What reproduce shows: our figures beside the published ones, what explains the others, and all that was published."""

import re
from itertools import groupby

from clipret.reporting.sheets import LABEL, Cell, Column, Sheet, heading_cell

_COLUMNS = (LABEL, *(Column(name, unit="percent") for name in ("ours", "published")), Column("difference"), Column())


def reproduction_sheets(report: dict) -> tuple[Sheet, ...]:
    """What reproduce returned, as a table: a block for each row that was compared."""
    cache, blocks = report["cache"], []
    for row in report["rows"]:
        # Without the model, which is in the title.
        rows = [(heading_cell(f"{row['source']}, {_heading(row)}"),)]
        for figure in row["figures"]:
            figures = (
                Cell(figure["ours"], ".2f"),
                Cell(figure["published"], f".{row['digits']}f"),
                Cell(figure["difference"], "+.2f"),
            )
            verdict = "ok" if figure["within"] else Cell("outside", emphasis="bold")
            rows.append((f"  {figure['direction']} {figure['metric']}", *figures, verdict))
        blocks.append(tuple(rows))
    title = f"{cache['path']}: {cache['dataset']}, {cache['recognised']}"
    return (Sheet(title, _COLUMNS, tuple(blocks), tuple(_notes(report))),)


def reproduction_summary(report: dict) -> str:
    """What may explain the figures outside, and the rows that this cache cannot be compared with, in words."""
    lines = []
    for row in report["rows"]:
        if row["passed"]:
            continue
        outside = sum(not figure["within"] for figure in row["figures"])
        lines.append(f"{row['name']}: {outside} of {len(row['figures'])} figures are outside. What may explain it:")
        lines += [f"  - {reason}" for reason in row["explanations"]]
    if report["unmatched"]:
        lines += ["Not compared:", *_not_compared(report["unmatched"])]
    if report["elsewhere"]["rows"]:
        rows, models = report["elsewhere"]["rows"], report["elsewhere"]["models"]
        lines.append(
            f"{_counted(rows, 'more row')} of {_counted(models, 'other model')}; clipret reproduce --list shows them "
            f"and the cache that each needs."
        )
    return "\n".join(lines)


def _not_compared(rows: list[dict]) -> list[str]:
    """Why rows were not compared, and what they need; those that differ in the language alone are one."""
    lines = []
    for (_, reason, needs), alike in groupby(rows, key=_without_language):
        name, *others = [row["name"] for row in alike]
        lines.append(f"  {name}{f', and {len(others):,} languages' if others else ''}: {reason}")
        lines += [f"    needs: {needs}"] if needs else []
    return lines


def _without_language(row: dict) -> tuple:
    return row["protocol"] if row["language"] else row["name"], row["reason"], row["needs"]


def outside_message(report: dict) -> str:
    """The error of a comparison that did not pass: how many figures, the furthest of them, and what to do next."""
    figures = [(row["name"], figure) for row in report["rows"] for figure in row["figures"]]
    name, worst = max(figures, key=lambda entry: abs(entry[1]["difference"]))
    return (
        f"{report['outside']} of {report['compared']} figures of {report['cache']['path']} are not within "
        f"{report['tolerance']:g} points of the published ones, the furthest {worst['direction']} {worst['metric']} of "
        f"{name}: {worst['ours']:.2f} where {worst['published']:g} was expected; see the explanations that are printed "
        f"with the figures, or allow more with --tolerance."
    )


def published_sheets(published: dict) -> tuple[Sheet, ...]:
    """What list_published returned: a table a source. Of several languages it shows their mean."""
    rows = [row for row in published["rows"] if row["language"] in (None, "mean")]
    by_source = groupby(rows, key=lambda row: row["source"])
    return tuple(_published_sheet(list(rows), remark=published["remarks"].get(source)) for source, rows in by_source)


def published_summary(published: dict) -> str:
    """Where the figures are from, and the commands that make a cache, and a head, for them, in words."""
    commands = {}
    for row in published["rows"]:
        if row["needs"] is not None:
            commands.setdefault(_with_any_model(row), {})[f"{row['protocol']} {row['method']}"] = None
    lines = ["Sources:", *dict.fromkeys(f"  {row['source']}: {row['url']}" for row in published["rows"])]
    lines.append("What makes a cache, and a head, for them; MODEL is the row's:")
    for command, rows in commands.items():
        lines += [f"  {command}", *(f"    for {name}" for name in rows)]
    return "\n".join(lines)


def _published_sheet(rows: list[dict], *, remark: str | None) -> Sheet:
    notes = [f"percent; {rows[0]['citation']}", *filter(None, [remark]), *_remarks(rows)]
    notes += [f"{_heading(row)}, {row['contradiction']}" for row in rows if row["contradiction"]]
    blocks = []
    for heading, alike in groupby(rows, key=_heading):
        lines = [(heading_cell(heading),)]
        for row in alike:
            families = _families(row["figures"]["i2t"]).items()
            names = [f"  {row['model']}", *[""] * len(families)]
            lines += [(name, label, *_figures(row, cuts)) for name, (label, cuts) in zip(names, families, strict=False)]
        blocks.append(tuple(lines))
    columns = (LABEL, Column("metric", align="left"), Column("i2t", unit="percent"), Column("t2i", unit="percent"))
    return Sheet(rows[0]["source"], columns, tuple(blocks), tuple(notes))


def _remarks(rows: list[dict]) -> list[str]:
    """Every remark with what it is of: groups of rows, or models where it is not of most of a group."""
    alike: dict[tuple, dict[str, None]] = {}
    for heading, group in groupby(rows, key=_heading):
        group = list(group)
        for row in group:
            most = 2 * sum(other["remark"] == row["remark"] for other in group) > len(group)
            alike.setdefault((row["remark"], most), {})[heading if most else row["model"]] = None
    return [f"{'; '.join(names)}: {remark}" for (remark, _), names in alike.items() if remark]


def _heading(row: dict) -> str:
    protocol = row["protocol"] or f"{row['dataset']} at random"
    language = f" {row['language']}" if row["language"] else ""
    return f"{protocol}{language}, {row['method']}"


def _figures(row: dict, metrics: list[str]) -> tuple[str, ...]:
    return tuple(
        "/".join(f"{row['figures'][direction][name]:.{row['digits']}f}" for name in metrics)
        for direction in ("i2t", "t2i")
    )


def _families(metrics: dict[str, float]) -> dict[str, list[str]]:
    """Label -> names of the metrics that share a line: those that differ in K alone."""
    families = {}
    for name in metrics:
        families.setdefault(re.sub(r"@\d+$", "", name), []).append(name)
    return {
        family + ("@" + "/".join(name.rpartition("@")[2] for name in names) if names != [family] else ""): names
        for family, names in families.items()
    }


def _with_any_model(row: dict) -> str:
    extraction, _, training = row["needs"].partition("; ")
    bare = extraction.replace(f" --model {row['model']}", "")
    return f"{bare} --model MODEL" + (f"; {training}" if training else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _notes(report: dict) -> list[str]:
    citations = dict.fromkeys(f"{row['source']}: {row['citation']}" for row in report["rows"])
    lines = [f"percent; ties count against us; ok: no further than {report['tolerance']:g} points away", *citations]
    for name, protocol in report["protocols"].items():
        lines += [f"{name}: {remark}" for remark in protocol["remarks"]]
        if protocol["images_left_out"]:
            lines.append(f"{name}: {protocol['images_left_out']:,} images have no usable feature and are left out")
    if report["cache"]["recognised_by"] in ("name", "file"):
        lines.append(
            f"taken for {report['cache']['recognised']} by its {report['cache']['recognised_by']}, not its weights"
        )
    return lines
