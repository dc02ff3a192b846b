"""Per-query files: read back, and compared with plain loops over a small cache."""

import csv
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from clipret import FeatureCache
from clipret.errors import RunError, UsageError
from clipret.evaluation.per_query import check_per_query_path, per_query_table, write_per_query
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import Gallery
from tests.conftest import contents, write_cache

NAMES = ["protocol", "fold", "direction", "head", "query", "caption", "image", "positives", "rank", "ranks", "top_ids"]
CAPTIONS = ('a "red" dog, near', "two\nlines", "ünïcode 狗", "[1, 2]")


@pytest.fixture
def cache(tmp_path):
    """Images with one to seven captions, and some with none."""
    counts = np.random.default_rng(3).integers(1, 8, size=60)
    counts[4::9] = 0
    cache_contents = contents(
        captions=[f"{CAPTIONS[row % 4]} {row}" for row in range(counts.sum())],
        caption_ids=[f"c{row}" for row in range(counts.sum())],
        caption_images=np.repeat(np.arange(60), counts),
    )
    return FeatureCache(write_cache(tmp_path / "made.h5", cache_contents))


def ranked(cache, split, *, top=10):
    (fold,) = split_protocol(cache, split=split).folds
    return fold, Gallery.read(cache, fold).rank(LinearHead(cache.projections), device="cpu", top=top)


def table(cache, split, direction, *, number=0, head="zero-shot", top=10):
    fold, ranks = ranked(cache, split, top=top)
    names = {"protocol": "split", "direction": direction, "head": head}
    return per_query_table(cache, fold, number, ranks=ranks[direction], **names)


def naive_rows(cache, split, direction, *, number=0, head="zero-shot", top=10):
    """What per_query_table holds, by a loop over queries and all their scores."""
    images = [row for row in range(60) if cache.image_splits[row] == ("train", "val", "test").index(split)]
    texts = [row for row in range(len(cache.captions)) if cache.caption_images[row] in images]
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    left = unit(cache.image_features.astype(np.float64) @ cache.projections["image/weight"])
    right = unit(cache.text_features.astype(np.float64) @ cache.projections["text/weight"])
    rows = []
    for query in texts if direction == "t2i" else images:
        image = cache.caption_images[query] if direction == "t2i" else query
        if direction == "t2i":
            order = sorted(images, key=lambda item: -right[query] @ left[item])
            ranks, ids = [order.index(image) + 1], [cache.image_ids[item] for item in order]
        else:
            order = sorted(texts, key=lambda item: -left[query] @ right[item])
            ranks = [place for place, item in enumerate(order, start=1) if cache.caption_images[item] == image]
            ids = [cache.caption_ids[item] for item in order]
        if ranks:
            rows.append(
                {
                    "protocol": "split",
                    "fold": number,
                    "direction": direction,
                    "head": head,
                    "query": cache.caption_ids[query] if direction == "t2i" else cache.image_ids[query],
                    "caption": cache.captions[query] if direction == "t2i" else None,
                    "image": cache.image_ids[image],
                    "positives": len(ranks),
                    "rank": ranks[0],
                    "ranks": ranks,
                    "top_ids": ids[:top],
                }
            )
    return rows


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("top", [1, 10, 1000])
def test_a_table_equals_a_plain_loop(cache, split, direction, top):
    ours = table(cache, split, direction, number=3, head="trained", top=top)
    assert ours.column_names == NAMES
    assert ours.to_pylist() == naive_rows(cache, split, direction, number=3, head="trained", top=top)


def all_tables(cache):
    for head in ("zero-shot", "wise-ft 0.5", "trained"):
        for number, split in enumerate(("test", "val")):
            for direction in ("t2i", "i2t"):
                yield table(cache, split, direction, number=number, head=head)


def all_rows(cache):
    return [
        row
        for head in ("zero-shot", "wise-ft 0.5", "trained")
        for number, split in enumerate(("test", "val"))
        for direction in ("t2i", "i2t")
        for row in naive_rows(cache, split, direction, number=number, head=head)
    ]


def test_parquet_is_read_back_as_it_was(cache, tmp_path):
    write_per_query(tmp_path / "out.parquet", all_tables(cache))
    rows = parquet.read_table(tmp_path / "out.parquet")
    assert rows.to_pylist() == all_rows(cache)
    assert rows.schema.field("image").type == pa.dictionary(pa.int32(), pa.string())
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 12
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.parquet"]


def test_row_groups_are_bounded(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.machine.row_tables._ROW_GROUP", 7)
    write_per_query(tmp_path / "out.parquet", [table(cache, "test", "t2i")])
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    sizes = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
    assert max(sizes) == 7
    assert sum(sizes) == len(naive_rows(cache, "test", "t2i"))
    assert file.read().to_pylist() == parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert file.read().to_pylist() == naive_rows(cache, "test", "t2i")


def test_pandas_reads_it(cache, tmp_path):
    pandas = pytest.importorskip("pandas")
    write_per_query(tmp_path / "out.parquet", all_tables(cache))
    frame, rows = pandas.read_parquet(tmp_path / "out.parquet"), all_rows(cache)
    assert frame["rank"].tolist() == [row["rank"] for row in rows]
    assert [list(ids) for ids in frame["top_ids"]] == [row["top_ids"] for row in rows]


def test_csv_is_read_back_as_it_was(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.machine.row_tables._ROW_GROUP", 7)
    write_per_query(tmp_path / "out.csv", all_tables(cache))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: int(row[name]) for name in ("fold", "positives", "rank")}
        row |= {name: json.loads(row[name]) for name in ("ranks", "top_ids")}
        row["caption"] = row["caption"] or None
    assert rows == all_rows(cache)


def test_of_an_iterator_one_table_is_held_at_a_time(cache, tmp_path):
    one = table(cache, "test", "t2i")
    weight = one.nbytes

    def tables():
        for _ in range(200):
            yield pa.concat_tables([one]).combine_chunks()
            in_memory.append(pa.total_allocated_bytes() - before)

    for name in ("out.parquet", "out.csv"):
        in_memory, before = [], pa.total_allocated_bytes()
        write_per_query(tmp_path / name, tables())
        assert max(in_memory[100:]) <= max(in_memory[:100]) + 2 * weight


def test_ranks_without_best_items_are_a_mistake_of_ours(cache):
    with pytest.raises(ValueError, match=r"^the ranks are without their best items; rank with top=10 or so$"):
        table(cache, "test", "t2i", top=0)
    with pytest.raises(ValueError, match=r"^there is no table to write$"):
        write_per_query(cache.path.with_name("out.csv"), [])


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(cache, tmp_path, name):
    (tmp_path / name).write_text("old")

    def tables():
        yield table(cache, "test", "t2i")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_per_query(tmp_path / name, tables())
    assert (tmp_path / name).read_text() == "old"
    assert [path.name for path in tmp_path.glob("out*")] == [name]


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_a_full_disk_is_reported(cache, tmp_path, name):
    def tables():
        yield table(cache, "test", "t2i")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError) as caught:
        write_per_query(tmp_path / name, tables())
    assert str(caught.value) == (
        f"cannot write {tmp_path / name}: No space left on device; give another place with --per-query."
    )


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    messages = {
        "out.json": f"--per-query is '{tmp_path}/out.json'; expected a file that ends with .parquet or .csv.",
        "out": f"--per-query is '{tmp_path}/out'; expected a file that ends with .parquet or .csv.",
        "folder.csv": f"--per-query is '{tmp_path}/folder.csv', a folder; expected a file.",
        "no/out.csv": f"--per-query is '{tmp_path}/no/out.csv', but there is no folder {tmp_path}/no; make it first.",
    }
    for name, message in messages.items():
        with pytest.raises(UsageError) as caught:
            check_per_query_path(tmp_path / name)
        assert str(caught.value) == message
        with pytest.raises(UsageError):
            write_per_query(tmp_path / name, [])
    check_per_query_path(tmp_path / "out.csv")
    check_per_query_path(tmp_path / "out.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError) as caught:
        check_per_query_path(tmp_path / "out.parquet")
    assert str(caught.value) == "--per-query needs the package `pyarrow`; run: pip install 'clipret[parquet]'"
