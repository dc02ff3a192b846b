"""What `clipret info`, `clipret verify` and `clipret merge` show."""

import shlex

from clipret.annotations.counting import copies_in_words, single_colour_in_words
from clipret.reporting.data import property_sheet, splits_in_words
from clipret.reporting.sheets import Cell, Column, Sheet


def info_sheets(info: dict, *, problems: bool = False, truncated: bool = False) -> tuple[Sheet, ...]:
    """The result of inspect_cache as a table of two columns.

    problems   with each image that could not be read
    truncated  with each caption that was too long for the model
    """
    if info["members"]:
        lists = {"problems": problems, "truncated": truncated}
        return _joint_sheet(info), *(sheet for member in info["members"] for sheet in info_sheets(member, **lists))
    images, captions, inputs = info["images"], info["captions"], info["inputs"]
    state = "complete" if info["complete"] else f"INCOMPLETE; resume with: {info['command']}"
    rows = {
        "cache": f"{info['path']}  ({info['bytes'] / 2**20:,.1f} MiB, format {info['format']})",
        "state": state,
        "data set": info["dataset"],
        **_origin(info),
        "images": f"{images['all']:,}: {images['done']:,} done, {images['todo']:,} to do, "
        f"{images['unusable']:,} unusable",
        "captions": f"{captions['all']:,}: {captions['done']:,} done, {captions['todo']:,} to do",
        "captions an image": _spread(info["per_image"]) if info["per_image"] else "no images",
        "tokens a caption": _tokens(info),
        "features": f"image {images['width']}, text {captions['width']}, {inputs['dtype']}; {_computed(inputs)}",
        "projections": _projections(info["projections"]),
        **{f"{side} tokens": tap_in_words(tap) for side, tap in info["taps"].items()},
        **_remarkable(info),
        "splits": splits_in_words(info["splits"]) if info["splits"] else "no images",
        "split by": info["split_rule"],
        **({"remarks": "\n".join(info["remarks"])} if info["remarks"] else {}),
        "created": info["created"],
        "fingerprint": info["fingerprint"],
    }
    lists = _truncated(info, whole=truncated) + _problems(info, whole=problems)
    return (property_sheet([*rows.items(), *lists]),)


def _joint_sheet(info: dict) -> Sheet:
    """What caches have together that stand side by side."""
    images, captions = info["images"], info["captions"]
    rows = {
        "caches side by side": info["path"],
        "state": "complete" if info["complete"] else "INCOMPLETE",
        "data set": info["dataset"],
        "model": info["model"],
        "images": f"{images['all']:,}: {images['done']:,} done in all of them",
        "captions": f"{captions['all']:,}: {captions['done']:,} done in all of them",
        "features": f"image {images['width']}, text {captions['width']}; each cache's of norm 1 behind its projection",
        "projections": _projections(info["projections"]),
        **({"remarks": "\n".join(info["remarks"])} if info["remarks"] else {}),
        "fingerprint": info["fingerprint"],
    }
    return property_sheet([*rows.items()])


def _origin(info: dict) -> dict[str, str]:
    """Rows on what made the features."""
    inputs = info["inputs"]
    if "imported" in inputs:
        return {"model": f"{info['model']}, according to the import  ({info['library']})"}
    return {
        "model": f"{info['model']}  (weights {inputs['weights_sha256'][:12]}, {info['library']})",
        **_encoder(inputs),
        "preprocessing": f"{inputs['preprocessing']}{', padded' if inputs.get('pad_images') else ''}, "
        f"decode {inputs['decode']}, background {inputs['background']}, "
        f"prompt '{inputs['prompt']}'",
    }


def _computed(inputs: dict) -> str:
    return f"imported: {inputs['imported']}" if "imported" in inputs else f"computed in {inputs['precision']}"


def _tokens(info: dict) -> str:
    captions = info["captions"]
    if "imported" in info["inputs"]:
        return "not counted"
    return (
        f"{_spread(captions['tokens'])}; {captions['truncated']:,} captions truncated to {captions['context_length']}"
    )


# What the fingerprint holds of encoders of other libraries than OpenAI's.
_DETAILS = ("architecture", "encoder", "revision", "tokenizer", "text_prompt", "pooling")


def _encoder(inputs: dict) -> dict[str, str]:
    """Rows on an encoder, where there is more to say than its name and its weights."""
    names = (name for name in inputs if name.endswith(_DETAILS))
    return {name.replace("_", " "): str(inputs[name]) for name in names}


def _projections(projections: dict | None) -> str:
    if projections is None:
        return "none: the encoders were never aligned; heads start in closed form, and nothing is zero-shot"
    parts = []
    for side, projection in projections.items():
        width, embedding = projection["shape"]
        what = "the identity, as the encoder has none" if projection["identity"] else f"{width} to {embedding}"
        parts.append(f"{side} {what}{', with bias' if projection['bias'] else ''}")
    return "; ".join(parts)


def tap_in_words(tap: dict) -> str:
    """The tokens of a side, as inspect_cache has them."""
    size = f"{tap['tokens']:,} of width {tap['width']}, {tap['dtype']}: {tap['bytes'] / 2**20:,.1f} MiB"
    if not tap["loss"]:
        return size
    cosine, centred = (tap["loss"][name]["mean"] for name in ("cosine", "centred_cosine"))
    return f"{size}; what the block makes of them has cosine {cosine:.6f} to the exact, centred {centred:.6f}"


def _truncated(info: dict, *, whole: bool) -> list[tuple[str, str]]:
    """Captions that were too long: each of them, or the command that lists them."""
    if not info["truncated"]:
        return [("truncated", "none")] if whole else []
    if not whole:
        return [("truncated", f"list them with: clipret info {shlex.quote(info['path'])} --truncated")]
    captions = info["truncated"].items()
    return [(f"truncated, row {row}", f"{caption['id']}: {caption['tokens']:,} tokens") for row, caption in captions]


def _problems(info: dict, *, whole: bool) -> list[tuple[str, str]]:
    """Images that could not be read: each of them, or how many for which reason."""
    if not info["problems"]:
        return [("problems", "none")] if whole else []
    if whole:
        images = info["problems"].items()
        return [(f"problem, row {row}", f"{image['file']}: {image['reason']}") for row, image in images]
    reasons = [f"{reason}: {count:,}" for reason, count in info["reasons"].items()]
    hint = f"list them with: clipret info {shlex.quote(info['path'])} --problems"
    return [("problems", "\n".join([*reasons, hint]))]


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
        smaller = ", ".join(f"{side} {size}" for side, size in sizes.items() if size)
        rows["micro-batches"] = f"{smaller}: out of memory; this may change the last bits of the features"
    return rows


def verification_sheets(result: dict) -> tuple[Sheet, ...]:
    """The result of verification.verify: what was checked, and what is wrong."""
    rows = []
    for check in result["checks"]:
        count = "" if check["rows"] is None else Cell(check["rows"], ",")
        faults = "\n".join(check["faults"])
        rows.append((check["name"], count, Cell(faults, emphasis="red") if faults else "ok"))
    columns = (Column("check", align="left"), Column("rows"), Column(align="left", wrap=True))
    return (Sheet("", columns, (tuple(rows),)),)


def import_summary(result: dict) -> str:
    """What import_features returned, in words."""
    cache = result["cache"]
    sides = [f"{result[what]:,} {what}" for what in ("images", "captions") if result[what]]
    lines = [
        f"{cache}: {' and '.join(sides)}, imported in {result['seconds']:.1f} s: {result['features']}, "
        f"{result['dtype']}, split by {result['split_rule']}."
    ]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    follows = f"clipret train --cache {shlex.quote(cache)}" if len(sides) == 2 else f"clipret info {shlex.quote(cache)}"
    return "\n".join([*lines, f"Next: {follows}"])


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
    return ", ".join(f"{name} {value}" for name, value in values.items()) if values else "not computed yet"
