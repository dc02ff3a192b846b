"""What `clipret search` and `clipret serve` show."""

from pathlib import Path
from urllib.parse import quote

from clipret.reporting.sheets import Cell, Column, Sheet

_COLUMNS = (
    Column("rank"),
    Column("score"),
    Column("id", align="left", wrap=True),
    Column("file", align="left", wrap=True),
    Column("caption", align="left", wrap=True),
)
# What terminals would take for the end of a link, or a command, is not in it.
_SAFE = "/-_.~"


def search_sheet(result: dict) -> Sheet:
    """The hits of one query."""
    root = Path(result["root"])
    rows = [
        (
            Cell(hit["rank"]),
            Cell(hit["score"], ".3f"),
            hit["id"],
            Cell(hit["file"], link=_link(root / hit["file"])),
            " ".join((hit["caption"] or "").split()),
        )
        for hit in result["hits"]
    ]
    return Sheet(_title(result), _COLUMNS, (tuple(rows),) if rows else (), notes=_notes(result))


def queries_summary(result: dict) -> str:
    """What was written of a file of queries."""
    lines = [
        f"{result['out']} has {result['hits']:,} hits of {result['queries']:,} queries, in {result['seconds']:.1f} s"
    ]
    return "\n".join([*lines, *_notes(result)])


def _title(result: dict) -> str:
    asked = result["query"]
    words = [asked["text"]] if asked["text"] is not None else []
    words += [asked["image"]] if asked["image"] is not None else []
    return " + ".join(words)


def _notes(result: dict) -> list[str]:
    split = "all splits" if result["split"] == "all" else result["split"]
    notes = [
        f"{result['gallery']:,} {result['find']} of {split}, {result['model']}, head {result['head']['name']}, cosines"
    ]
    least = result["min_score"]
    if least:
        calibrated = f": {least['precision']:.0%} of the hits on val are right" if "precision" in least else ""
        notes.append(f"only cosines from {least['value']:.3f} on{calibrated}")
        if result["hits"] in ([], 0):
            notes.append("nothing found")
    if result["index"]:
        of, kind = "captions" if result["find"] == "images" else "images", result["index"]["kind"]
        recall = f"{result['index']['recall@10']:.3f} with {result['index']['queries']:,} {of} as queries"
        notes.append(f"approximate, by {kind}: recall@10 is {recall}")
    return notes


def _link(path: Path) -> str:
    """The address of a file that is there; none of one in a container."""
    try:
        return f"file://{quote(str(path.absolute()), safe=_SAFE)}" if path.is_file() else ""
    except (OSError, ValueError):
        return ""
