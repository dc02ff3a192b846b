"""What `clipret embed` and `clipret export` say."""


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
    lines = [f"{result['out']} has {result['run'] or result['head']['path']} for {result['to']}:"]
    lines += [f"  {name}  ({size / 1e6:,.1f} MB)" for name, size in result["files"].items()]
    for way in result["verified"]:
        lines.append(_way_line(way))
    return "\n".join(lines)


def _way_line(way: dict) -> str:
    if not way["opened"]:
        return f"Not opened with {way['way']}: its package is not installed."
    line = (
        f"Opened with {way['way']}: {way['texts']} captions and {way['images']} images differ by at most "
        f"{way['difference']:.1e} from clipret's"
    )
    line = f"{line} ({way['remark']})." if way["remark"] else f"{line}."
    for name, what in (("reading", "captions that it reads otherwise"), ("preprocessing", "images by its own crop")):
        if way.get(name, {}).get("differ"):
            line += f" {way[name]['differ']} {what} differ by up to {way[name]['largest']:.1e}."
    return line
