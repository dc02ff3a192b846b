"""What reproduce shows: our figures beside the published ones, what explains the others, and all that was published."""

import re
from itertools import groupby

from rich import box
from rich.markup import escape
from rich.table import Table

_HEADINGS = ("ours", "published", "difference", "")
_NARROW = {"box": box.SIMPLE, "pad_edge": False, "collapse_padding": True}


def reproduction_tables(report: dict) -> tuple[Table, ...]:
    """What reproduce returned, as a table: a block for each row that was compared."""
    cache = report["cache"]
    # What a path or a message holds is no markup.
    table = Table(
        title=escape(f"{cache['path']}: {cache['dataset']}, {cache['recognised']}"),
        caption=escape(_footnote(report)),
        caption_justify="left",
        **_NARROW,
    )
    # In a narrow terminal it is the names that are broken, and no figure.
    table.add_column("", overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        # Without the model, which is in the title.
        table.add_row(f"[bold]{escape(row['source'])}, {escape(_heading(row))}[/bold]")
        for figure in row["figures"]:
            verdict = "ok" if figure["within"] else "[bold]outside[/bold]"
            table.add_row(
                f"  {figure['direction']} {figure['metric']}",
                f"{figure['ours']:.2f}",
                f"{figure['published']:.{row['digits']}f}",
                f"{figure['difference']:+.2f}",
                verdict,
            )
        table.add_section()
    return (table,)


def reproduction_summary(report: dict) -> str:
    """What explains the figures outside, and the rows that this cache does not answer, in words."""
    lines = []
    for row in report["rows"]:
        if row["passed"]:
            continue
        outside = sum(not figure["within"] for figure in row["figures"])
        lines.append(f"{row['name']}: {outside} of {len(row['figures'])} figures are outside. What may explain it:")
        lines += [f"  - {reason}" for reason in row["explanations"]]
    own = [row for row in report["unmatched"] if row["model"] == report["cache"]["recognised"]]
    if own:
        lines.append("Not compared:")
        for row in own:
            lines.append(f"  {row['name']}: {row['reason']}")
            lines += [f"    needs: {row['needs']}"] if row["needs"] else []
    others = [row for row in report["unmatched"] if row not in own]
    if others:
        models = len({row["model"] for row in others})
        lines.append(
            f"{_counted(len(others), 'more row')} of {_counted(models, 'other model')}; clipret reproduce --list shows "
            f"them and the cache that each needs."
        )
    return "\n".join(lines)


def outside_message(report: dict) -> str:
    """The error of a comparison that did not pass: how many figures, the furthest of them, and what to do next."""
    figures = [(row["name"], figure) for row in report["rows"] for figure in row["figures"]]
    name, worst = max(figures, key=lambda each: abs(each[1]["difference"]))
    return (
        f"{report['outside']} of {report['compared']} figures of {report['cache']['path']} are not within "
        f"{report['tolerance']:g} points of the published ones, the furthest {worst['direction']} {worst['metric']} of "
        f"{name}: {worst['ours']:.2f} where {worst['published']:g} was expected; see the explanations that are printed "
        f"with the figures, or allow more with --tolerance."
    )


def published_tables(listed: dict) -> tuple[Table, ...]:
    """What list_published returned: a table a source."""
    by_source = groupby(listed["rows"], key=lambda row: row["source"])
    return tuple(_published_table(list(rows), remark=listed["remarks"].get(source)) for source, rows in by_source)


def published_summary(listed: dict) -> str:
    """Where the figures are from, and the commands that make a cache, and a head, for them, in words."""
    commands = {}
    for row in listed["rows"]:
        if row["needs"] is not None:
            commands.setdefault(_with_any_model(row), {})[f"{row['protocol']} {row['method']}"] = None
    lines = ["Sources:", *dict.fromkeys(f"  {row['source']}: {row['url']}" for row in listed["rows"])]
    lines.append("What makes a cache, and a head, for them; MODEL is the row's:")
    for command, rows in commands.items():
        lines += [f"  {command}", *(f"    for {name}" for name in rows)]
    return "\n".join(lines)


def _published_table(rows: list[dict], *, remark: str | None) -> Table:
    remarks = {}
    for row in rows:
        remarks.setdefault(row["remark"], {})[_heading(row)] = None
    told = [f"{'; '.join(headings)}: {text}" for text, headings in remarks.items() if text]
    told += [f"{_heading(row)}, {row['contradiction']}" for row in rows if row["contradiction"]]
    lines = [f"percent; {rows[0]['citation']}", *filter(None, [remark]), *told]
    table = Table(title=escape(rows[0]["source"]), caption=escape("\n".join(lines)), caption_justify="left", **_NARROW)
    table.add_column("", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for heading in ("i2t", "t2i"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading, alike in groupby(rows, key=_heading):
        table.add_row(f"[bold]{escape(heading)}[/bold]")
        for row in alike:
            name = f"  {escape(row['model'])}"
            for label, metrics in _families(row["figures"]["i2t"]).items():
                table.add_row(name, label, *_figures(row, metrics))
                name = ""
        table.add_section()
    return table


def _heading(row: dict) -> str:
    protocol = row["protocol"] or f"{row['dataset']} at random"
    return f"{protocol}, {row['method']}"


def _figures(row: dict, metrics: list[str]) -> tuple[str, ...]:
    return tuple(
        "/".join(f"{row['figures'][way][name]:.{row['digits']}f}" for name in metrics) for way in ("i2t", "t2i")
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


def _footnote(report: dict) -> str:
    citations = dict.fromkeys(f"{row['source']}: {row['citation']}" for row in report["rows"])
    lines = [f"percent; ties count against us; ok: no further than {report['tolerance']:g} points away", *citations]
    for name, protocol in report["protocols"].items():
        lines += [f"{name}: {remark}" for remark in protocol["remarks"]]
        if protocol["images_left_out"]:
            lines.append(f"{name}: {protocol['images_left_out']:,} images have no usable feature and are left out")
    if report["cache"]["recognised_by"] != "weights":
        lines.append(
            f"taken for {report['cache']['recognised']} by its {report['cache']['recognised_by']}, not its weights"
        )
    return "\n".join(lines)
