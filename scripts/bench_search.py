"""Exact search of one query and of 64 beside numpy, faiss and usearch, and approximate indexes: make bench-search"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from benchmark import Seconds, compare

from clipret.exports.indexes import faiss_hnsw, usearch
from clipret.retrieval.nearest import nearest

_K = 10
_BLOCK = 50_000


def draw(rows: int, width: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (rows, E) float16 of norm 1 in clusters, as photographs of the same things are, and captions near some."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, rows // 100), width), dtype=np.float32)
    images = np.empty((rows, width), dtype=np.float16)
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        values = generator.standard_normal((count, width), dtype=np.float32)
        values += centres[generator.integers(len(centres), size=count)]
        images[start : start + count] = values / np.linalg.norm(values, axis=1, keepdims=True)
    captions = images[generator.integers(rows, size=1000)].astype(np.float32)
    captions += generator.standard_normal(captions.shape, dtype=np.float32) / width**0.5
    return images, captions / np.linalg.norm(captions, axis=1, keepdims=True)


def copied(source: np.ndarray, target: np.ndarray) -> None:
    """Copy with all cores."""
    spans = [slice(start, start + _BLOCK) for start in range(0, len(source), _BLOCK)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda span: np.copyto(target[span], source[span]), spans))


def by_numpy(queries: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The plain way: a block at a time as float32, and the best of all."""
    blocks = (images[start : start + _BLOCK].astype(np.float32) for start in range(0, len(images), _BLOCK))
    scores = np.concatenate([queries @ block.T for block in blocks], axis=1)
    return np.argpartition(-scores, _K, axis=1)[:, :_K]


def exact(folder: Path, *, rows: int, width: int, rounds: int) -> None:
    """One query, and 64, over float16 in memory and just opened."""
    import faiss
    from usearch.index import MetricKind, search

    images, captions = draw(rows, width)
    np.save(folder / "images.npy", images)
    half = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    single = faiss.IndexFlatIP(width)
    for start in range(0, rows, _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        for index in (half, single):
            index.train(block)
            index.add(block)
    target = np.empty_like(images)
    for name, count in (("search", 1), ("search-64", 64)):
        queries = captions[:count]
        halves = queries.astype(np.float16)
        found, plain = nearest(queries, images, k=_K)[1].tolist(), by_numpy(queries, images).tolist()
        assert list(map(set, found)) == list(map(set, plain))

        def opened(queries: np.ndarray = queries) -> None:
            nearest(queries, np.load(folder / "images.npy", mmap_mode="r"), k=_K)

        compare(
            name,
            work=f"{count} of {rows:,} x {width} float16, the best {_K}",
            floor="copying the matrix once",
            ways={
                "copying the matrix once": lambda: copied(images, target),
                "clipret": lambda queries=queries: nearest(queries, images, k=_K),
                "clipret, file just opened": opened,
                "numpy": lambda queries=queries: by_numpy(queries, images),
                "faiss flat, float32": lambda queries=queries: single.search(queries, _K),
                "faiss flat, float16": lambda queries=queries: half.search(queries, _K),
                "usearch exact": lambda halves=halves: search(images, halves, _K, MetricKind.IP, exact=True),
            },
            rounds=rounds,
        )


def approximate(folder: Path, *, rows: int, width: int) -> None:
    """Indexes as `clipret search --index` builds them: seconds to build, recall@10 of captions, seconds of a query."""
    images, captions = draw(rows, width, seed=1)
    expected = nearest(captions, images, k=_K)[1]
    print(f"\n{rows:,} x {width} float16, HNSW; recall@{_K} of {len(captions):,} captions")
    for name, module in (("usearch", usearch), ("faiss-hnsw", faiss_hnsw)):
        started = time.perf_counter()
        blocks = (images[start : start + 1024] for start in range(0, rows, 1024))
        module.write_index(folder / name, blocks, width=width, dtype="float16")
        built = time.perf_counter() - started
        find = module.open_index(folder / name)
        times = []
        places = np.empty_like(expected)
        for number, caption in enumerate(captions):
            started = time.perf_counter()
            places[number] = find(caption[None], _K)[0]
            times.append(Seconds(time.perf_counter() - started))
        shares = [len(np.intersect1d(*pair)) / _K for pair in zip(expected, places, strict=True)]
        milliseconds = 1000 * statistics.median(times)
        print(f"  {name:<12} built in {built:.0f} s, recall {np.mean(shares):.3f}, {milliseconds:.2f} ms a query")


def main() -> None:
    """Everything in one process, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--indexed-rows", type=int, default=100_000, help="of approximate indexes; 0: none")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="of the disk to measure on")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if arguments.indexed_rows:
            approximate(Path(name), rows=arguments.indexed_rows, width=arguments.width)
        exact(Path(name), rows=arguments.rows, width=arguments.width, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
