"""Single queries: won, lost, worst, and those whose answer is right though nothing says so."""

import re
from collections import defaultdict

import numpy as np

from clipret.evaluation.findings.ranked import Ranked

_SHOWN = 5
# Of two images' embeddings through the baseline: so near, they show the same.
_SAME_IMAGE = 0.98
_FEWEST = 10
_MOST_WORDS = 12


def find_galleries(ranked: Ranked, direction: str, *, most: int) -> dict:
    """Queries of the first gallery, at most `most` of each kind, each as _describe has it.

    won, lost   by the ratio of the ranks before and after
    worst       by the rank after
    unlabelled  queries of which the best item under the trained head is wrong, but has the same caption as the query,
                but for case and punctuation, or an image all but equal to the expected one (cosine from 0.98 on)
    unlabelled_count, r1 and r1_counted  how many of the last there are; R@1 of the trained head in this gallery, and
                what it would be if they counted as right
    """
    before, after = (ranked.ranks(head, direction).first for head in (ranked.heads[0], ranked.heads[-1]))
    ratios = after / before
    order = np.lexsort((np.minimum(before, after), ratios))
    won = [place for place in order[:most] if ratios[place] < 1]
    lost = [place for place in np.lexsort((np.minimum(before, after), -ratios))[:most] if ratios[place] > 1]
    worst = np.argsort(-after, kind="stable")[:most].tolist()
    unlabelled = find_unlabelled(ranked, direction)
    right = float(np.mean(after == 1))
    return {
        **{
            name: [_describe(ranked, direction, int(place)) for place in places]
            for name, places in {"won": won, "lost": lost, "worst": worst, "unlabelled": unlabelled[:most]}.items()
        },
        "unlabelled_count": len(unlabelled),
        "r1": right,
        "r1_counted": right + len(unlabelled) / len(after),
    }


def find_unlabelled(ranked: Ranked, direction: str) -> list[int]:
    """Places of queries whose best item under the trained head is an unlabelled match."""
    trained, baseline = ranked.heads[-1], ranked.heads[0]
    ranks, images = ranked.ranks(trained, direction), ranked.embeddings[baseline]["image"]
    owners, texts = ranked.fold.caption_images, _plain_captions(ranked)
    found = []
    for place in np.flatnonzero(ranks.first > 1).tolist():
        best, matching = int(ranks.top[place, 0]), ranked.matching(direction, place)
        # Of a tie that counts against it.
        if best in matching:
            continue
        row = int(ranks.asking[place])
        if direction == "t2i":
            said, shown = {texts[row]}, {texts[caption] for caption in ranked.captions_of[best]}
            pair = (owners[row], best)
        else:
            said, shown = {texts[caption] for caption in ranked.captions_of[row]}, {texts[best]}
            pair = (row, owners[best])
        if said & shown - {""} or images[pair[0]] @ images[pair[1]] >= _SAME_IMAGE:
            found.append(place)
    return found


def first_words(ranked: Ranked, direction: str) -> list[dict]:
    """R@1 before and after of captions by their first word, the most frequent words that ten queries or more have.

    Of an image query the word is that of its first caption. Returns word, queries, before and after.
    """
    texts = _plain_captions(ranked)
    before, after = (ranked.ranks(head, direction).first == 1 for head in (ranked.heads[0], ranked.heads[-1]))
    groups = defaultdict(list)
    for place, row in enumerate(ranked.ranks(ranked.heads[0], direction).asking.tolist()):
        caption = row if direction == "t2i" else next(iter(ranked.captions_of[row]), None)
        words = texts[caption].split() if caption is not None else []
        if words:
            groups[words[0]].append(place)
    frequent = [word for word, places in groups.items() if len(places) >= _FEWEST]
    frequent.sort(key=lambda word: -len(groups[word]))
    return [
        {
            "word": word,
            "queries": len(groups[word]),
            "before": float(before[groups[word]].mean()),
            "after": float(after[groups[word]].mean()),
        }
        for word in frequent[:_MOST_WORDS]
    ]


def _plain_captions(ranked: Ranked) -> list[str]:
    """The captions of the gallery in lower case, without punctuation."""
    captions = ranked.cache.captions
    return [" ".join(re.findall(r"\w+", captions[row].lower())) for row in ranked.fold.text_rows.tolist()]


def _describe(ranked: Ranked, direction: str, place: int) -> dict:
    """query (an image or a caption of Ranked), expected (up to five), ranks: head -> rank of the first that matches,
    and best: head -> the first five items with score and matching."""
    asked, item = (ranked.caption, ranked.image) if direction == "t2i" else (ranked.image, ranked.caption)
    matching, best = ranked.matching(direction, place), {}
    for head in (ranked.heads[0], ranked.heads[-1]):
        positions = ranked.ranks(head, direction).top[place, :_SHOWN]
        scores = ranked.scores(head, direction, place, positions)
        best[head] = [
            {**item(int(position)), "score": float(score), "matching": bool(position in matching)}
            for position, score in zip(positions, scores, strict=True)
        ]
    row = int(ranked.ranks(ranked.heads[0], direction).asking[place])
    return {
        "query": asked(row),
        "expected": [item(int(position)) for position in matching[:_SHOWN]],
        "ranks": {head: int(ranked.ranks(head, direction).first[place]) for head in best},
        "best": best,
    }
