"""Single queries, with what was expected and what came, before and after."""

import re

from clipret.reporting.pages.markup import element, text
from clipret.reporting.pages.parts.part import Part
from clipret.reporting.pages.pictures import Pictures

_KINDS = {
    "won": "Won: ranks that became better, the largest change first",
    "lost": "Lost: ranks that became worse",
    "worst": "Worst under the trained head",
    "unlabelled": "Unlabelled matches: counted as wrong, and right to the eye",
}
_MOST_WORDS = 80
_SIDES = {"t2i": "Captions that look for images", "i2t": "Images that look for captions"}


def _render(found: dict, pictures: Pictures) -> str:
    parts = []
    for direction, galleries in found["galleries"].items():
        parts.append(element("h3", text(f"{direction}: {_SIDES[direction]}")))
        counted = galleries["unlabelled_count"]
        if counted:
            said = (
                f"{counted:,} answers at rank 1 are wrong only because nothing says that they match: the caption is "
                f"the same, or the image all but equal. If they counted, R@1 of this gallery would be "
                f"{galleries['r1_counted']:.1%} instead of {galleries['r1']:.1%}."
            )
            parts.append(element("p", text(said)))
        for kind, title in _KINDS.items():
            queries = galleries[kind]
            if queries:
                cards = [_card(query, direction, pictures) for query in queries]
                opened = " open" if kind in ("won", "lost") else ""
                summary = element("summary", text(f"{title} ({len(queries)} shown)"))
                parts.append(f"<details{opened}>{summary}{''.join(cards)}</details>")
    if pictures.left_out:
        parts.append(
            element("p", text("Of some images the page has the file's name only (--root, --most-bytes)."), kind="soft")
        )
    return "".join(parts)


def _card(query: dict, direction: str, pictures: Pictures) -> str:
    asked, heads = query["query"], list(query["best"])
    ranks = ", ".join(f"{head} {query['ranks'][head]:,}" for head in dict.fromkeys(heads))
    if direction == "t2i":
        title = element("h4", text(asked["caption"]))
    else:
        title = element("h4", text(asked["caption"] or asked["file"])) + element(
            "div", pictures.of(asked), kind="asked"
        )
    rows = [_row("expected", query["expected"], direction, pictures, query=asked)]
    rows += [_row(head, query["best"][head], direction, pictures, query=asked) for head in dict.fromkeys(heads)]
    rank = element("p", text(f"rank: {ranks}"), kind="soft")
    return element("article", title, rank, element("div", *rows, kind="rows"), kind="query")


def _row(name: str, items: list[dict], direction: str, pictures: Pictures, *, query: dict) -> str:
    drawn = []
    for item in items:
        score = f" {item['score']:.3f}" if "score" in item else ""
        kind = "matching" if item.get("matching") else ""
        if direction == "t2i":
            content = pictures.of(item) + element("span", text(f"{item['caption'] or item['file']}{score}"))
        else:
            content = f"{_differing(item['caption'], query['caption'] or '')} {text(score)}"
        drawn.append(element("li", content, kind=kind))
    items_kind = "items" if direction == "t2i" else "items captions"
    return element("div", element("span", text(name), kind="soft"), element("ul", *drawn, kind=items_kind), kind="row")


def _differing(caption: str, other: str) -> str:
    """A caption, its words that the other one does not have marked."""
    known = _plain(other)
    words = [
        text(word) if not known or not _plain(word) or _plain(word) & known else element("mark", text(word))
        for word in caption.split()[:_MOST_WORDS]
    ]
    return " ".join(words)


def _plain(words: str) -> set[str]:
    return set(re.findall(r"\w+", words.lower()))


PART = Part("Queries", _render)
