"""What `clipret info`, `clipret verify` and `clipret merge` show."""

import shlex

from rich import box
from rich.table import Table
from rich.text import Text

from clipret.annotations.counting import copies_in_words, single_colour_in_words


def info_table(info: dict, *, problems: bool = False, truncated: bool = False) -> Table:
    """The result of inspect_cache as a two-column table.

    problems   with each image that could not be read
    truncated  with each caption that was too long for the model
    """
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    images, captions, inputs = info["images"], info["captions"], info["inputs"]
    state = "complete" if info["complete"] else f"INCOMPLETE; go on with: {info['command']}"
    rows = {
        "cache": f"{info['path']}  ({info['bytes'] / 2**20:,.1f} MiB, format {info['format']})",
        "state": state,
        "data set": info["dataset"],
        "model": f"{info['model']}  (weights {inputs['weights_sha256'][:12]}, {info['library']})",
        "preprocessing": f"{inputs['preprocessing']}, decode {inputs['decode']}, background {inputs['background']}, "
        f"prompt '{inputs['prompt']}'",
        "images": f"{images['all']:,}: {images['done']:,} done, {images['todo']:,} to do, "
        f"{images['unusable']:,} unusable",
        "captions": f"{captions['all']:,}: {captions['done']:,} done, {captions['todo']:,} to do",
        "captions an image": _spread(info["per_image"]),
        "tokens a caption": f"{_spread(captions['tokens'])}; {captions['truncated']:,} captions truncated to "
        f"{captions['context_length']}",
        "features": f"image {images['width']}, text {captions['width']}, {inputs['dtype']}; "
        f"computed in {inputs['precision']}",
        **_remarkable(info),
        "splits": "\n".join(
            f"{name}: {counts['images']:,} images, {counts['captions']:,} captions"
            for name, counts in info["splits"].items()
        ),
        "split by": info["split_rule"],
        **({"remarks": "\n".join(info["remarks"])} if info["remarks"] else {}),
        "created": info["created"],
        "fingerprint": info["fingerprint"],
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    if truncated:
        for row, caption in info["truncated"].items():
            table.add_row(f"truncated, row {row}", Text(f"{caption['id']}: {caption['tokens']:,} tokens"))
    elif info["truncated"]:
        table.add_row("truncated", Text(f"each of them: clipret info {shlex.quote(info['path'])} --truncated"))
    if problems:
        for row, problem in info["problems"].items():
            table.add_row(f"problem, row {row}", Text(f"{problem['file']}: {problem['reason']}"))
    elif info["problems"]:
        reasons = [f"{reason}: {count:,}" for reason, count in info["reasons"].items()]
        hint = f"each of them: clipret info {shlex.quote(info['path'])} --problems"
        table.add_row("problems", Text("\n".join([*reasons, hint])))
    return table


def _remarkable(info: dict) -> dict[str, str]:
    """Rows of the table that few caches have."""
    rows, decoding, sizes = {}, info["decoding"], info["micro_batch"]
    if decoding:
        cosine, centred = (decoding[name]["mean"] for name in ("cosine", "centred_cosine"))
        rows["decoding"] = f"{info['inputs']['decode']}: cosine {cosine:.4f} to exact, centred {centred:.4f}"
    if info["cross_split_copies"]:
        rows["copies"] = "\n".join(map(copies_in_words, info["cross_split_copies"]))
    if info["single_colour"]["images"]:
        rows["single colour"] = single_colour_in_words(info["single_colour"])
    if any(sizes.values()):
        told = ", ".join(f"{side} {size}" for side, size in sizes.items() if size)
        rows["micro-batches"] = f"{told}: for want of memory; the last bits may depend on it"
    return rows


def verification_table(found: dict) -> Table:
    """The result of verification.verify: what was looked at, and what is wrong."""
    table = Table(box=box.SIMPLE)
    table.add_column("check", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("")
    for check in found["checks"]:
        rows = "" if check["rows"] is None else f"{check['rows']:,}"
        faults = "\n".join(check["faults"])
        table.add_row(check["name"], rows, Text(faults, style="red") if faults else "ok")
    return table


def merge_summary(result: dict) -> str:
    """What merging.merge returned, in words."""
    cache = result["cache"]
    lines = [
        f"{cache}: {result['images']:,} images and {result['captions']:,} captions of {len(result['caches'])} caches, "
        f"in {result['seconds']:.1f} s."
    ]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    return "\n".join([*lines, f"Next: clipret train --cache {shlex.quote(cache)}"])


def _spread(values: dict | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if values else "not known yet"
