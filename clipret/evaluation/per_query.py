"""Per-query results in a table file, for pandas, DuckDB or a spreadsheet."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipret.cache import FeatureCache
from clipret.machine.row_tables import TABLE_SUFFIXES, require_tables, write_tables
from clipret.protocols.protocol import Fold
from clipret.retrieval.ranks import Ranks
from clipret.runs import check_place, written

if TYPE_CHECKING:
    import pyarrow


def check_per_query_path(path: Path) -> None:
    """Check early that a per-query file can be written to `path`.

    Raises UsageError when the suffix is neither .parquet nor .csv, when the folder does not exist, and when pyarrow is
    not installed.
    """
    check_place("per-query", path, suffixes=TABLE_SUFFIXES)
    require_tables("--per-query")


def per_query_table(
    cache: FeatureCache, fold: Fold, number: int, *, protocol: str, direction: str, head: str, ranks: Ranks
) -> "pyarrow.Table":
    """One row per query, for one head in one direction of one fold.

    number     of the fold, from 0
    protocol   name of the protocol
    direction  t2i or i2t
    head       zero-shot or closed-form, trained ...
    ranks      with `top`: as many of the best items as the table should have

    Columns: protocol, fold, direction, head; query (id of the caption in t2i, of the image in i2t), caption (t2i; null
    in i2t), image (id of the query's image), positives (number of matching items), rank (of the first matching item,
    from 1; ties count against us), ranks (of all matching items, ascending), top_ids (ids of the best items: images in
    t2i, captions in i2t; ties by lower row, so a matching item may be higher here than its rank).
    """
    import pyarrow as pa

    if ranks.top is None:
        raise ValueError("the ranks are without their best items; rank with top=10 or so")
    rows, of_captions = ranks.asking, direction == "t2i"
    images = fold.caption_images[rows] if of_captions else rows
    image_ids, caption_ids = (
        pa.array([names[row] for row in kept], pa.string())
        for names, kept in ((cache.image_ids, fold.image_rows), (cache.caption_ids, fold.text_rows))
    )
    captions = [cache.captions[row] for row in fold.text_rows[rows]] if of_captions else [None] * ranks.queries
    items = image_ids if of_captions else caption_ids
    best = pa.DictionaryArray.from_arrays(pa.array(ranks.top.ravel().astype(np.int32)), items)
    ends = ranks.top.shape[1] * np.arange(ranks.queries + 1)
    columns = {
        "protocol": _repeat(protocol, ranks.queries),
        "fold": pa.array(np.full(ranks.queries, number, dtype=np.int32)),
        "direction": _repeat(direction, ranks.queries),
        "head": _repeat(head, ranks.queries),
        "query": (caption_ids if of_captions else image_ids).take(pa.array(rows)),
        "caption": pa.array(captions, pa.string()),
        "image": pa.DictionaryArray.from_arrays(pa.array(images.astype(np.int32)), image_ids),
        "positives": pa.array(ranks.positives.astype(np.int32)),
        "rank": pa.array(ranks.first.astype(np.int32)),
        "ranks": _lists(ranks.offsets, pa.array(ranks.ranks.astype(np.int32))),
        "top_ids": _lists(ends, best),
    }
    return pa.table(columns)


def write_per_query(path: Path, tables: Iterable["pyarrow.Table"]) -> None:
    """Write the tables of per_query_table to one file, atomically and one at a time.

    path  .parquet: row groups of 65,536 rows, compressed; .csv: ranks and top_ids as JSON lists

    With an iterator, one table is in memory at a time. Raises UsageError as check_per_query_path does, ValueError
    without tables, and RunError when the file cannot be written; an existing file is then left unchanged.
    """
    check_per_query_path(path)
    with written(path, option="per-query"):
        write_tables(path, tables)


def _repeat(word: str, count: int) -> "pyarrow.DictionaryArray":
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([word]))


def _lists(offsets: np.ndarray, values: "pyarrow.Array") -> "pyarrow.Array":
    """Lists of values, from offsets[q] to offsets[q + 1]."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
