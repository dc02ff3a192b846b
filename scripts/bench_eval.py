"""Exact ranks and all metrics of both directions beside the bare matrix product and the usual ways: make bench-eval"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from benchmark import PeakMebibytes, compare

from clipret import EvalConfig
from clipret.machine.products import Products, keep_freed_memory
from clipret.retrieval.cpu import CAPTIONS_AT_ONCE
from clipret.retrieval.engine import Matches, rank
from clipret.retrieval.metrics import summarise

_K = 10
_FLOOR = "bare product, tile by tile"
_OURS = "clipret, exact ranks and all metrics"
# COCO's training images and captions, as Karpathy's split has them with restval.
_TRAIN_IMAGES, _TRAIN_CAPTIONS = 113_287, 566_747
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Work:
    """Unit vectors in which captions find their image about as often as CLIP's do on COCO."""

    images: torch.Tensor
    texts: torch.Tensor
    owners: np.ndarray

    @classmethod
    def make(cls, images: int, *, captions: int, width: int) -> "Work":
        """Captions are dealt out evenly; seeded."""
        generator = torch.Generator().manual_seed(0)
        owners = np.sort(np.arange(captions) % images)
        vectors = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
        # Cosines of about 0.15 to the own image, where others have 0 with a deviation of 1 / sqrt(width).
        texts = torch.randn(captions, width, generator=generator) * (6.6 / width**0.5)
        texts = torch.nn.functional.normalize(texts.add_(vectors[torch.from_numpy(owners)]), dim=1)
        return cls(vectors, texts, owners)

    @cached_property
    def matches(self) -> Matches:
        return Matches.of(self.owners, images=len(self.images))

    @property
    def relevant(self) -> dict[str, list[list[int]]]:
        """Direction -> the matching items of every query."""
        captions = np.split(np.arange(len(self.owners)), np.flatnonzero(np.diff(self.owners)) + 1)
        return {"t2i": [[int(owner)] for owner in self.owners], "i2t": [part.tolist() for part in captions]}


def ours(work: Work) -> None:
    for ranks in rank(work.images, work.texts, matches=work.matches).values():
        summarise(ranks)


def tiles(work: Work) -> None:
    """The product alone, in tiles and threads as the ranks are counted in; nothing is kept of it."""
    keep_freed_memory()
    high, wide = EvalConfig.block, CAPTIONS_AT_ONCE
    spans = [(row, column) for row in range(0, len(work.images), high) for column in range(0, len(work.texts), wide)]
    multiply, threads = Products("cpu"), torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def product(span: tuple[int, int]) -> None:
            images, texts = work.images[span[0] : span[0] + high], work.texts[span[1] : span[1] + wide]
            multiply(images[None], texts.T[None])

        list(pool.map(product, spans))
    torch.set_num_threads(threads)


def top(work: Work) -> list[torch.Tensor]:
    scores = work.images @ work.texts.T
    return [scores.T.topk(min(_K, len(work.images))).indices, scores.topk(min(_K, len(work.texts))).indices]


def sort(work: Work) -> list[torch.Tensor]:
    scores = work.images @ work.texts.T
    return [scores.T.argsort(1, descending=True), scores.argsort(1, descending=True)]


def faiss_flat(work: Work) -> None:
    import faiss

    for queries, gallery in ((work.texts, work.images), (work.images, work.texts)):
        index = faiss.IndexFlatIP(gallery.shape[1])
        index.add(gallery.numpy())
        index.search(queries.numpy(), min(_K, len(gallery)))


def ranx_evaluate(work: Work) -> None:
    from ranx import Qrels, Run, evaluate

    for lists, relevant in zip(top(work), work.relevant.values(), strict=True):
        scores = {f"{item}": 1.0 - place / 100 for place, item in enumerate(range(_K))}
        run = {
            str(query): dict(zip(map(str, items), scores.values(), strict=False))
            for query, items in enumerate(lists.tolist())
        }
        qrels = {str(query): {str(item): 1 for item in items} for query, items in enumerate(relevant)}
        evaluate(Qrels(qrels), Run(run), ["hit_rate@1", "hit_rate@5", "hit_rate@10", "map@10", "mrr", "ndcg@10"])


def sentence_transformers(work: Work) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    class Evaluator(InformationRetrievalEvaluator):
        def embed_inputs(self, model: object, sentences: object, **kwargs: object) -> torch.Tensor:
            return self.embedded

    sides = {"t2i": (work.texts, work.images), "i2t": (work.images, work.texts)}
    for direction, relevant in work.relevant.items():
        queries, gallery = sides[direction]
        evaluator = Evaluator(
            {str(query): "" for query in range(len(queries))},
            {str(item): "" for item in range(len(gallery))},
            {str(query): {str(item) for item in items} for query, items in enumerate(relevant)},
            map_at_k=[_K],
            write_csv=False,
            score_functions={"cosine": lambda left, right: left @ right.T},
        )
        evaluator.embedded = queries
        evaluator.compute_all_metrics(None, corpus_embeddings=gallery)


def clip_benchmark(work: Work) -> None:
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = work.texts @ work.images.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(work.owners)] = True
    for k in (1, 5, 10):
        batchify(recall_at_k, scores, positive, 64, "cpu", k=k)
        batchify(recall_at_k, scores.T, positive.T, 64, "cpu", k=k)


WAYS: dict[str, Callable[[Work], object]] = {
    _FLOOR: tiles,
    "bare product, torch.mm": lambda work: work.images @ work.texts.T,
    _OURS: ours,
    "torch.topk 10, no ranks": top,
    "argsort, no metrics": sort,
}
# Package -> what is measured where it is installed.
OTHERS: dict[str, tuple[str, Callable[[Work], object]]] = {
    "faiss": ("faiss flat, top 10, no ranks", faiss_flat),
    "ranx": ("ranx on torch.topk 10", ranx_evaluate),
    "sentence_transformers": ("sentence-transformers' evaluator", sentence_transformers),
    "clip_benchmark": ("CLIP_benchmark's recall at 1, 5, 10", clip_benchmark),
}


def peak_above(work: Work, run: Callable[[Work], object]) -> float:
    """MiB that doing it adds to what this process holds, at most; libraries are loaded by a small piece of it first."""
    small = Work.make(20, captions=100, width=work.images.shape[1])
    run(small)
    # Linux forgets the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(work)
    return (_status("VmHWM") - before) / 1024


def measure_training_set(queries: int, *, width: int) -> dict:
    """Images of COCO's training set against all its captions: seconds, projected to all images, and the memory."""
    images, texts = (torch.empty(rows, width) for rows in (_TRAIN_IMAGES, _TRAIN_CAPTIONS))
    generator = torch.Generator().manual_seed(0)
    for side in (images, texts):
        side.normal_(generator=generator)
        for rows in side.split(8192):
            rows.div_(rows.norm(dim=1, keepdim=True))
    captions, some = np.arange(_TRAIN_CAPTIONS), np.arange(5 * queries)
    pairs = {"t2i": (captions, captions % queries), "i2t": (some // 5, some)}
    matches = Matches.of(captions, images=queries, matches=pairs)
    del captions, pairs
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    for ranks in rank(images[:queries], texts, matches=matches).values():
        summarise(ranks)
    seconds = time.perf_counter() - started
    return {
        "queries": queries,
        "seconds": round(seconds, 2),
        "projected_seconds": round(seconds * _TRAIN_IMAGES / queries, 1),
        "peak_mib": round(_status("VmHWM") / 1024),
    }


def _status(name: str) -> int:
    """KiB of this process."""
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))


def main() -> None:
    """Measure; memory, on Linux, in a process for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--captions", type=int, default=25_010)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-queries", type=int, default=0, help="also so many images against 566,747 captions")
    parser.add_argument("--no-others", dest="others", action="store_false", help="leave out what other packages do")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    others = [run for package, run in OTHERS.items() if arguments.others and importlib.util.find_spec(package)]
    ways = WAYS | dict(others)
    if arguments.memory_of == "train":
        print(json.dumps(measure_training_set(arguments.train_queries, width=arguments.width)))
        return
    work = Work.make(arguments.images, captions=arguments.captions, width=arguments.width)
    if arguments.memory_of:
        print(json.dumps(peak_above(work, ways[arguments.memory_of])))
        return

    def alone(what: str) -> object:
        words = [sys.executable, __file__, *sys.argv[1:], "--memory-of", what]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    compare(
        "eval",
        work=f"{arguments.images:,} images x {arguments.captions:,} captions x {arguments.width}, both directions",
        floor=_FLOOR,
        ways={name: partial(run, work) for name, run in ways.items()},
        rounds=arguments.rounds,
        peaks={name: PeakMebibytes(alone(name)) for name in ways} if _STATUS.exists() else None,
    )
    if arguments.train_queries:
        print("training set of COCO:", json.dumps(alone("train")))


if __name__ == "__main__":
    main()
