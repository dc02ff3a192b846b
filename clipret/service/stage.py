"""Stage 3: a cache, a head and a query -> hits: the function behind `clipret search`."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipret.config import SearchConfig
from clipret.config.checks import one_of
from clipret.errors import UsageError
from clipret.exports import INDEXES
from clipret.exports.packages import require_package
from clipret.machine.files import read_file, require_file
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.machine.row_tables import TABLE_SUFFIXES, require_tables, write_tables
from clipret.runs import check_place, reason, written
from clipret.service.approximate import Approximate
from clipret.service.describing import Descriptions
from clipret.service.opening import open_searcher
from clipret.service.searching import Hits
from clipret.service.terms import Query, Term, parse, with_picture
from clipret.service.thresholds import calibrate

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MOST_BYTES = 1 << 30
_AT_ONCE = 512
FOUND = {"images": "image", "captions": "text"}


def search(config: SearchConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Find the images, or captions, of a cache that are nearest to words, a picture, or a sum of these.

    on_progress  called while the gallery is embedded, which is done once, with phase "embeddings"; while an index is
                 built; and with phase "queries"

    The gallery is searched exactly: hits are ordered by their cosines in float64, equal ones by row, as `eval
    --per-query` orders them. Its embeddings are kept beside the run, or the cache, as embeddings-SPLIT, and computed
    anew when the cache or the head has changed.

    Returns cache, model, head (name, path), split, find, gallery (its size), k, min_score (None, or value, and what
    calibrate returns), index (None, or kind, path, recall@10 and of how many queries), seconds; and of one query
    `query`, root and hits: rank, score, row, id, file, split and caption of images; rank, score, row, id, caption,
    split, image, image_id and file of captions. Of a file of queries, queries and hits (their numbers) and out.

    Raises UsageError for a query that cannot be read, DatasetError for a picture, and as open_run and embed do.
    """
    started = time.monotonic()
    texts = _read_queries(config)
    if config.index:
        one_of("index", config.index, allowed=tuple(INDEXES))
        require_package(INDEXES[config.index].package, extra=INDEXES[config.index].extra, option="--index")
    queries = [_parsed(text) for text in texts] if texts is not None else [_query_of(config)]
    opened = open_searcher(config, [config.head], split=config.split, index=config.index, on_progress=on_progress)
    searcher, abouts = opened
    (name, about), side = next(iter(abouts.items())), FOUND[config.find]
    approximate = None
    if config.index:
        approximate = Approximate.opened(searcher, name, side, kind=config.index, about=about)
    least, threshold = config.least, config.least and {"value": config.least}
    if config.min_score == "auto":
        threshold = calibrate(searcher, name, side=side, precision=config.precision, k=config.k)
        least = threshold["value"]

    def find(asked: list[Query]) -> list[Hits]:
        embeddings = searcher.embed(asked, name)
        if approximate:
            found = approximate.search(embeddings, k=config.k)
        else:
            found = searcher.search(embeddings, head=name, side=side, k=config.k)
        return [hits.first(config.k, least=least) for hits in found]

    descriptions = Descriptions(searcher.cache, root=config.root)
    result = {
        "cache": str(config.cache),
        "model": searcher.cache.about["model"],
        "head": {"name": name, "path": about["head"]["path"]},
        "split": config.split,
        "find": config.find,
        "gallery": len(searcher.heads[name].kept[side].rows),
        "k": config.k,
        "min_score": threshold,
        "index": approximate and approximate.about,
    }
    if texts is None:
        (hits,) = find(queries)
        asked = {"text": config.query, "image": config.image and str(config.image)}
        result |= {"query": asked, "root": str(descriptions.root), "hits": descriptions.hits(hits, side=side)}
    else:
        counted = _write(config, texts, queries, find=find, describe=descriptions, side=side, on_progress=on_progress)
        result |= {"queries": len(queries), "hits": counted, "out": str(config.out)}
    return result | {"seconds": time.monotonic() - started}


def _read_queries(config: SearchConfig) -> list[str] | None:
    if config.queries is None:
        return None
    check_place("out", config.out, suffixes=TABLE_SUFFIXES)
    require_tables("--out")
    try:
        text = read_file(config.queries, most=_MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--queries {config.queries} cannot be read: {reason(error)}.") from None
    lines = [line.strip() for line in text.splitlines()]
    if not any(lines):
        raise UsageError(f"--queries {config.queries} has no queries; expected one a line.")
    return [line for line in lines if line]


def _parsed(text: str) -> Query:
    return parse(text, picture=_picture)


def _picture(word: str) -> Path | None:
    """The file that a term names, where it ends as pictures do. Raises UsageError when there is none."""
    path = Path(word)
    if path.suffix.lower() not in _PICTURES:
        return None
    try:
        require_file(path)
    except OSError as error:
        raise UsageError(
            f"'{word}' in the query ends as a picture does, but {reason(error)}; double quotes make it words."
        ) from None
    return path


def _query_of(config: SearchConfig) -> Query:
    if config.query is None:
        return (Term(image=config.image),)
    query = _parsed(config.query)
    return query if config.image is None else with_picture(query, config.image)


def _write(
    config: SearchConfig,
    texts: list[str],
    queries: list[Query],
    *,
    find,
    describe: Descriptions,
    side: str,
    on_progress: ProgressCallback,
) -> int:
    """Write the hits of all queries; returns their number."""
    counted = 0

    def tables() -> Iterator:
        nonlocal counted
        for start in range(0, len(queries), _AT_ONCE):
            found = find(queries[start : start + _AT_ONCE])
            numbers = np.repeat(np.arange(start, start + len(found)), [len(hits.rows) for hits in found])
            rows = [hit for hits in found for hit in describe.hits(hits, side=side)]
            counted += len(rows)
            yield _table(numbers, [texts[number] for number in numbers], rows, side=side)
            on_progress(Progress("queries", start + len(found), len(queries)))

    with written(config.out):
        write_tables(config.out, tables())
    return counted


def _table(numbers: np.ndarray, texts: list[str], hits: list[dict], *, side: str):
    """Columns query (counted from 1), text, rank, score and those of hits."""
    import pyarrow as pa

    strings = ("id", "file", "split", "caption") + (("image_id",) if side == "text" else ())
    integers = ("rank", "row") + (("image",) if side == "text" else ())
    columns = {"query": pa.array(numbers + 1, pa.int64()), "text": pa.array(texts, pa.string())}
    columns |= {name: pa.array([hit[name] for hit in hits], pa.int64()) for name in integers}
    columns["score"] = pa.array([hit["score"] for hit in hits], pa.float64())
    return pa.table(columns | {name: pa.array([hit[name] for hit in hits], pa.string()) for name in strings})
