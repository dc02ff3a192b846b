"""The page of `clipret look`."""

import time
from pathlib import Path

from clipret import __version__
from clipret.config import LookConfig
from clipret.evaluation.looking.stage import examine
from clipret.exports.packages import require_package
from clipret.machine.files import replaced
from clipret.machine.progress import ProgressCallback, silent
from clipret.reporting import SECTIONS
from clipret.reporting.forms.html import html_table
from clipret.reporting.pages.chart import Axis, Chart, Line
from clipret.reporting.pages.charts import draw
from clipret.reporting.pages.markup import element, figure, scrolling, text
from clipret.reporting.pages.page import page
from clipret.reporting.pages.pictures import Pictures
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet
from clipret.runs import check_place, written

_KINDS = {
    "equal bytes": "The same file in two splits",
    "near copy": "Nearly the same picture in two splits: resized, recompressed, cropped or mirrored, by the features",
    "same caption": "The same caption in two splits, but for case and punctuation",
}
_SHARE = 0.8
# Of a caption in a table, in letters.
_LONGEST = 200


def look(config: LookConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write a page about the data of a cache: one HTML file that needs nothing else.

    on_progress  as of examine

    Returns what evaluation.looking.stage.examine does, and out, bytes and seconds. Raises as it does, UsageError when
    the file cannot be there or a package is missing, and RunError when it cannot be written.
    """
    started = time.monotonic()
    check_place("out", config.out, suffixes=(".html",))
    if config.map == "umap":
        require_package("umap", extra="umap", option="--map umap")
    found = examine(config, on_progress=on_progress)
    about = found["cache"]
    root = config.root or Path(_root_of(config))
    pictures = Pictures(root, most_bytes=int(config.most_bytes * _SHARE))
    parts = [
        ("What there is", _counts(found)),
        ("Leaks between splits", _leaks(found, pictures, most=config.listed)),
        ("Captions of two splits that are nearly alike", _near_captions(found, most=config.listed)),
        ("Captions of several images", _shared(found)),
        ("Images whose captions fit others better", _images(found["unlikely"], pictures, "surplus", form="+.2f")),
        ("Images unlike all others", _images(found["far"], pictures, "cosine", form=".3f")),
        ("Images that could not be read", _problems(about)),
        ("A map of the images", _map(found["map"], pictures, kind=config.map)),
    ]
    said = f"{about['dataset']}, {about['model']}; clipret {__version__}"
    names = ", ".join(Path(one["path"]).name for one in about["members"] or [about])
    content = page(f"The data of {names}", said, [part for part in parts if part[1]])
    with written(config.out), replaced(config.out) as unfinished:
        unfinished.write_bytes(content.encode("utf-8", "backslashreplace"))
    size = config.out.stat().st_size
    return {**found, "out": str(config.out), "bytes": size, "seconds": time.monotonic() - started}


def _root_of(config: LookConfig) -> str:
    from clipret.cache import open_features

    return open_features(config.cache).about["root"]


def _counts(found: dict) -> str:
    about, lengths = found["cache"], found["lengths"]
    tables = [html_table(sheet) for sheet in SECTIONS["info"](about)]
    title = "Captions by their length in words (60: that many, or more)"
    line = Line("captions", list(range(len(lengths))), lengths, kind=1, stepped=True)
    chart = Chart("lengths", title, lines=[line], x=Axis("words"), y=Axis("captions", form=",.0f", low=0))
    return scrolling(*tables) + element("div", figure(draw(chart), title), kind="charts")


def _leaks(found: dict, pictures: Pictures, *, most: int) -> str:
    counts = found["leak_counts"]
    if not found["leaks"]:
        return element("p", text("None were found: no equal files, near copies, or captions that are in two splits."))
    rows = [(_KINDS[kind], Cell(count, ",")) for kind, count in counts.items()]
    parts = [html_table(Sheet("Pairs", (LABEL, Column("pairs")), (tuple(rows),)))]
    for kind, title in _KINDS.items():
        some = [leak for leak in found["leaks"] if leak["kind"] == kind][:most]
        if some:
            summary = element("summary", text(f"{title} ({counts[kind]:,}, {len(some)} shown)"))
            drawn = "".join(_leak(leak, pictures) for leak in some)
            parts.append(f"<details open>{summary}{drawn}</details>")
    return "".join(parts)


def _near_captions(found: dict, *, most: int) -> str:
    pairs = found["near_captions"]
    if not pairs:
        return ""
    said = (
        f"{len(pairs):,} pairs by the features of the captions, which differ in a word at least, the surest first; "
        f"{min(most, len(pairs))} shown. They are no leaks by that: captions made by a rule are alike, and a word may "
        f"be all the difference."
    )
    rows = [
        (
            pair["split"],
            pair["caption"][:_LONGEST],
            pair["other_split"],
            pair["other_caption"][:_LONGEST],
            Cell(pair["cosine"], ".4f"),
            Cell(pair["ratio"], ".2f"),
        )
        for pair in pairs[:most]
    ]
    names = ("split", "caption", "other split", "its caption")
    columns = (*(Column(name, align="left") for name in names), Column("cosine"), Column("ratio"))
    return element("p", text(said), kind="soft") + scrolling(html_table(Sheet("", columns, (tuple(rows),))))


def _leak(leak: dict, pictures: Pictures) -> str:
    sides = []
    for prefix in ("", "other_"):
        item = {"file": leak[f"{prefix}file"], "caption": leak[f"{prefix}caption"] or leak[f"{prefix}id"]}
        words = f"{leak[f'{prefix}split']}: {item['caption']}"
        sides.append(element("li", pictures.of(item), element("span", text(words))))
    figures = f"cosine {leak['cosine']:.4f}, ratio {leak['ratio']:.2f}" if leak["kind"] == "near copy" else ""
    note = element("p", text(figures), kind="soft") if figures else ""
    return element("article", element("ul", *sides, kind="items"), note, kind="query")


def _shared(found: dict) -> str:
    rows = [(entry["caption"][:_LONGEST], Cell(entry["images"], ",")) for entry in found["shared"]]
    if not rows:
        return ""
    return scrolling(html_table(Sheet("", (Column("caption", align="left"), Column("images")), (tuple(rows),))))


def _images(entries: list[dict], pictures: Pictures, name: str, *, form: str) -> str:
    drawn = []
    for entry in entries:
        item = {"file": entry["file"], "caption": entry["captions"][0] if entry["captions"] else entry["id"]}
        words = f"{item['caption']} ({entry['split']}) {name} {format(entry[name], form)}"
        drawn.append(element("li", pictures.of(item), element("span", text(words))))
    said = {
        "surplus": "The cosine of an image with the best of its captions, less what it has with captions in general, "
        "and the caption with images in general. Of the lowest some are labelled wrongly.",
        "cosine": "Cosine with the middle of all images.",
    }[name]
    return element("p", text(said), kind="soft") + element("ul", *drawn, kind="items")


def _problems(about: dict) -> str:
    rows = [(entry["file"], entry["reason"]) for entry in list(about["problems"].values())[:200]]
    if not rows:
        return ""
    columns = (Column("file", align="left"), Column("reason", align="left"))
    return scrolling(html_table(Sheet("", columns, (tuple(rows),))))


def _map(entries: list[dict], pictures: Pictures, *, kind: str) -> str:
    drawn = []
    for entry in entries:
        caption = entry["captions"][0] if entry["captions"] else entry["id"]
        address = pictures.address(entry["file"])
        x, y = 15 + 930 * entry["x"], 15 + 580 * (1 - entry["y"])
        title = element("title", text(f"{caption} ({entry['split']})"))
        if address is None:
            drawn.append(f'<circle class="dot c1" cx="{x:.0f}" cy="{y:.0f}" r="4">{title}</circle>')
        else:
            place = f'x="{x - 14:.0f}" y="{y - 14:.0f}" width="28" height="28"'
            drawn.append(f'<g class="pin"><image href="{address}" {place}/>{title}</g>')
    said = {
        "pca": "The two directions in which the images differ most (PCA of the embeddings).",
        "umap": "Images that are alike are together (UMAP of the embeddings); how far groups are apart says nothing.",
    }[kind]
    chart = f'<svg viewBox="0 0 960 610" role="img" aria-label="{text(said)}">{"".join(drawn)}</svg>'
    return figure(chart, f"{said} {len(entries):,} images, drawn at random.")
