"""What `clipret check` and `clipret download` show."""

import shlex

from rich.filesize import decimal

from clipret.annotations.counting import single_colour_in_words
from clipret.reporting.sheets import Cell, Column, Sheet, heading_cell

_BAR_WIDTH = 40
# A table of names and what they stand for.
PROPERTIES = (Column(align="left"), Column(align="left", wrap=True))


def check_sheets(result: dict) -> tuple[Sheet, ...]:
    """The result of checking.check_dataset: what the data set has, and how long the captions are."""
    per_image, too_long, missing = result["per_image"], result["too_long"], result["missing"]["images"]
    there = f"{missing:,} {'is' if missing == 1 else 'are'} not there" if missing else "all are there"
    least, most = per_image["min"], per_image["max"]
    spread = f"an image has {least} to {most}, {per_image['mean']:.2f} on average"
    spread = f"{most} an image" if least == most else spread
    rows = {
        "data set": f"{result['dataset']}  ({result['root']})",
        "images": f"{result['images']:,}; {there}",
        "captions": f"{result['captions']:,}; {spread}",
        "splits": splits_in_words(result["splits"]),
        "split by": result["split_rule"],
        "too long": f"{too_long['captions']:,} captions exceed {too_long['context_length']} tokens and get truncated",
    }
    if result["single_colour"]["images"]:
        rows["single colour"] = single_colour_in_words(result["single_colour"])
    properties = [*rows.items(), *(("remark", remark) for remark in result["remarks"])]
    return property_sheet(properties), _histogram(result["words"])


def property_sheet(properties: list[tuple[str, str]]) -> Sheet:
    """Names, and what they stand for, as a table without headings."""
    return Sheet("", PROPERTIES, (tuple((heading_cell(name), text) for name, text in properties),))


def splits_in_words(splits: dict[str, dict[str, int]]) -> str:
    """The images and captions of each split, a line a split."""
    lines = (f"{name}: {counts['images']:,} images, {counts['captions']:,} captions" for name, counts in splits.items())
    return "\n".join(lines)


def _histogram(words: dict) -> Sheet:
    most = max(entry["captions"] for entry in words["histogram"])
    rows = [
        (entry["words"], Cell(entry["captions"], ","), "█" * round(_BAR_WIDTH * entry["captions"] / most))
        for entry in words["histogram"]
    ]
    columns = (Column("words"), Column("captions"), Column(align="left"))
    return Sheet(f"words a caption, median {words['median']:g}", columns, (tuple(rows),))


def download_summary(result: dict) -> str:
    """The result of datasets.download, in words."""
    lines = []
    for file in result["files"]:
        unpacked = f", {file['unpacked']:,} files unpacked" if file["unpacked"] else ""
        lines.append(f"{file['name']}: {decimal(file['bytes'])}, {file['state']}{unpacked}")
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    if result["instructions"]:
        return "\n".join([*lines, *result["instructions"]])
    changed = any(file["unpacked"] or file["state"] != "already there" for file in result["files"])
    lines.append(f"{result['dataset']} is complete in {result['root']}{'' if changed else '; nothing to do'}.")
    root = shlex.quote(result["root"])
    return "\n".join([*lines, f"Next: clipret check --dataset {result['dataset']} --root {root}"])
