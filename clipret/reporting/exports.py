"""What `clipret embed` says."""


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
