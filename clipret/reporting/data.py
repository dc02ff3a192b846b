"""What `clipret check` and `clipret download` show."""

import shlex

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from clipret.annotations.counting import single_colour_in_words

_BAR_WIDTH = 40


def check_tables(found: dict) -> tuple[Table, ...]:
    """The result of checking.check_dataset: what there is, and how long the captions are."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    per_image, too_long, missing = found["per_image"], found["too_long"], found["missing"]
    rows = {
        "data set": f"{found['dataset']}  ({found['root']})",
        "images": f"{found['images']:,}; {missing['images']:,} are not there",
        "captions": f"{found['captions']:,}; an image has {per_image['min']} to {per_image['max']}, "
        f"{per_image['mean']:.2f} on average",
        "splits": "\n".join(
            f"{name}: {counts['images']:,} images, {counts['captions']:,} captions"
            for name, counts in found["splits"].items()
        ),
        "split by": found["split_rule"],
        "too long": f"{too_long['captions']:,} captions exceed {too_long['context_length']} tokens and get truncated",
    }
    if found["single_colour"]["images"]:
        rows["single colour"] = single_colour_in_words(found["single_colour"])
    for name, value in rows.items():
        table.add_row(name, Text(value))
    for remark in found["remarks"]:
        table.add_row("remark", Text(remark))
    return table, _histogram(found["words"])


def _histogram(words: dict) -> Table:
    table = Table(title=f"words a caption, median {words['median']:g}", box=box.SIMPLE)
    table.add_column("words", justify="right")
    table.add_column("captions", justify="right")
    table.add_column("")
    most = max(entry["captions"] for entry in words["histogram"])
    for entry in words["histogram"]:
        bar = "█" * round(_BAR_WIDTH * entry["captions"] / most)
        table.add_row(entry["words"], f"{entry['captions']:,}", bar)
    return table


def download_summary(result: dict) -> str:
    """The result of datasets.download.download, in words."""
    lines = []
    for file in result["files"]:
        new = f", {file['unpacked']:,} files unpacked" if file["unpacked"] else ""
        lines.append(f"{file['name']}: {decimal(file['bytes'])}, {file['state']}{new}")
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    if result["instructions"]:
        return "\n".join([*lines, *result["instructions"]])
    new = any(file["unpacked"] or file["state"] != "already there" for file in result["files"])
    lines.append(f"{result['dataset']} is whole in {result['root']}{'' if new else '; nothing to do'}.")
    root = shlex.quote(result["root"])
    return "\n".join([*lines, f"Next: clipret check --dataset {result['dataset']} --root {root}"])
