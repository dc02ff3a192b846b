"""What `clipret embed` and `clipret export` say."""

import shlex


def embedding_summary(result: dict) -> str:
    """What embed returned, in words."""
    rows = " and ".join(
        f"{count:,} {'images' if side == 'images' else 'captions'}" for side, count in result["rows"].items()
    )
    head = result["head"]
    of = head["path"] or f"the {head['name']} head"
    lines = [f"{rows}, {result['width']} values of {result['dtype']} each, by {of}, in {result['seconds']:.1f} s:"]
    if not result["written"]:
        lines = [f"{result['out']} has these embeddings already: {rows}, by {of}. Nothing was written."]
    folder = result["record"].removesuffix(f"{result['out'].rpartition('/')[2]}.json")
    files = [*result["files"], *result["indexes"]]
    lines += [f"  {folder}{name}" for name in files] + [f"  {result['record']}  (what they are)"]
    left_out = [f"{count:,} {side}" for side, count in result["left_out"].items() if count]
    if left_out:
        lines.append(f"Note: left out are {' and '.join(left_out)}, as images that could not be read have no feature.")
    return "\n".join(lines)


def export_summary(result: dict) -> str:
    """What export returned, in words."""
    out = result["out"]
    lines = [f"{out} has {result['run'] or result['head']['file']} for {result['to']}, in {result['seconds']:.1f} s:"]
    lines += [f"  {name}  ({_size(size)})" for name, size in result["files"].items()]
    for way in result["verified"]:
        lines.append(_way_line(way))
    lines += _own_preprocessing(result["verified"])
    notes = list(result["remarks"])
    if result["images_missing"]:
        notes.append(
            f"images of the data set were not at hand, or not all of them ({result['images_missing']}); name their "
            f"folder with --root, and they are compared too"
        )
    cached = result["cached"]
    if cached["dtype"] != "float32" and cached["difference"]:
        largest = max(cached["difference"].values())
        notes.append(
            f"the cache holds {cached['dtype']}: embeddings of its features differ from the folder's by at most "
            f"{largest:.1e}"
        )
    lines += [f"Note: {note}." for note in notes]
    card = shlex.quote(f"{out}/README.md")
    lines.append(f"Next: {card} says how to load it; before you publish it, fill in the licences there")
    return "\n".join(lines)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _way_line(way: dict) -> str:
    if not way["opened"]:
        return f"Not opened with {way['way']}: its package is not installed."
    line = (
        f"Opened with {way['way']}: {way['texts']} captions and {way['images']} images, embeddings differ by at most "
        f"{way['difference']:.1e} from clipret's"
    )
    line = f"{line} ({way['remark']})." if way["remark"] else f"{line}."
    if (reading := way.get("reading")) and reading["differ"]:
        line += f" {reading['differ']} captions that it reads otherwise differ by up to {reading['largest']:.1g}."
    return line


def _own_preprocessing(verified: list[dict]) -> list[str]:
    """How many image files are other pixels by the library's own preprocessing, once for ways that agree."""
    counts = {}
    for way in verified:
        if own := way.get("preprocessing"):
            largest = f"{own['largest']:.1g}" if own["differ"] else ""
            counts.setdefault((own["differ"], way["images"], largest), []).append(way["way"])
    # Ways of opening that agree, as they do unless they are of several libraries, need no names.
    return [
        f"By {_whose(names, len(counts))}, {differ} of {images} image files give other "
        f"embeddings" + (f", by at most {largest}; see README.md." if differ else ".")
        for (differ, images, largest), names in counts.items()
    ]


def _whose(names: list[str], groups: int) -> str:
    return "the library's own preprocessing alone" if groups == 1 else f"the preprocessing of {' and '.join(names)}"
