"""What extraction does, in which order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clipret.backbones import load_backbone
from clipret.backbones.protocol import Backbone
from clipret.cache import (
    DONE,
    PENDING,
    SIDES,
    CacheContents,
    CacheWriter,
    FeatureCache,
    Part,
    discard_shards,
    found_about,
    found_parts,
    join_shards,
    open_writer,
    require_writable,
)
from clipret.cache.image_keys import split_copies
from clipret.cache.inspection import count_single_colour
from clipret.config import ExtractConfig, to_command
from clipret.datasets import RetrievalDataset, load_dataset
from clipret.datasets.captions import prompted
from clipret.errors import CacheError, UsageError
from clipret.extraction.contents import background_of, cache_contents, measured_decoding
from clipret.extraction.duplicates import sources_of_images, sources_of_texts
from clipret.extraction.encoding import Encoder
from clipret.extraction.job import Job
from clipret.extraction.limits import require_few_problems, workers_explained
from clipret.extraction.planning import Plan, own_rows
from clipret.extraction.processes import Rank, Together, current_rank, joined
from clipret.images import NOT_FOUND, ImageReader
from clipret.machine.description import available_cores
from clipret.machine.devices import choose_device
from clipret.machine.workers import ReadWatch
from clipret.progress import ProgressCallback, silent


def extract(config: ExtractConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write the penultimate features of a data set to its cache, or complete the cache that is there.

    on_progress  called after every batch, with phase "images", then "captions"

    Before the first batch is written, features times projection are compared with clip's own output. An image that
    cannot be read has no feature but a reason in the cache. Equal captions are encoded once, and so are images of equal
    bytes.

    Started by torchrun, each process does its share in a shard of its own, and the first one joins them.

    Returns cache (path), fingerprint, images, captions, problems (images without a usable feature), missing (those of
    them that were not found), single_colour and cross_split_copies as inspect_cache has them, extracted_images and
    extracted_captions (of this call and process; less than all after an interruption), copied (image, text: rows that
    are copies of encoded ones), batch_size, micro_batch (image, text: smaller ones that memory asked for; 0: none),
    decoding, processes, remarks (what the data set got wrong and was put right) and seconds.

    Raises DatasetError, BackboneError or CacheError, each with what to do next: DatasetError also when images are
    missing, unless config.skip_missing, and when more than config.max_problems of them cannot be read. UsageError when
    the device cannot do what is asked for. Whatever was finished is kept, and the same call goes on from there.
    """
    started = time.perf_counter()
    rank = current_rank()
    device = rank.device(choose_device(config.device))
    if config.compile and device == "cpu":
        raise UsageError("--compile is for a GPU; on the CPU the encoder has faster kernels of its own.")
    torch.manual_seed(config.seed)
    require_writable(config.cache)
    with joined(rank, on_progress=on_progress) as together, _threads(1 if device == "cpu" else None):
        begun = _begun(config, rank)
        dataset = load_dataset(config)
        missing = [] if begun else dataset.require_files(skip_missing=config.skip_missing)
        with together.first_on_a_machine():
            backbone = load_backbone(
                config.model,
                device=device,
                precision=config.precision,
                compiled=config.compile,
                download_root=config.download_root,
            )
        stage = _Stage(config, rank=rank, dataset=dataset, backbone=backbone, on_progress=on_progress)
        result = stage.run(missing, together=together, begun=begun)
    return result | {"seconds": round(time.perf_counter() - started, 3)}


@dataclass
class _Stage:
    """An extraction whose data set is read and whose model is loaded."""

    config: ExtractConfig
    rank: Rank
    dataset: RetrievalDataset
    backbone: Backbone
    on_progress: ProgressCallback

    def __post_init__(self):
        self._texts = prompted(self.dataset.captions, self.config)

    def run(self, missing: np.ndarray, *, together: Together, begun: bool) -> dict:
        """Extract, or find that nothing is to do; returns what extract returns, less the seconds.

        missing  rows of the images that are not there; of a cache that was begun, looked for again here
        """
        config, contents = self.config, self._contents()
        if not config.retry_problems and _is_finished(config.cache, contents):
            self._require_few_problems(FeatureCache(config.cache).problems)
            self._tidy(contents, together)
            return self._result(contents)
        part = self._part(contents, self.rank)
        with open_writer(config.cache, contents, part=part) as writer:
            if begun:
                missing = self.dataset.require_files(skip_missing=config.skip_missing, todo=self._undone(writer))
            if config.retry_problems:
                writer.forget_problems()
            plan = self._plan(writer, together=together)
            new = {side: len(writer.pending(side)) for side in SIDES}
            self._encode(writer, plan, missing=missing)
        if part:
            together.wait()
            if self.rank.index == 0:
                parts = [self._part(contents, replace(self.rank, index=index)) for index in range(self.rank.count)]
                join_shards(config.cache, contents, parts=parts, sources=plan.sources, merge=config.merge)
            together.wait()
            # Of all processes together.
            self._require_few_problems(FeatureCache(config.cache).problems)
        return self._result(contents, new=new, plan=plan)

    def _tidy(self, contents: CacheContents, together: Together) -> None:
        """Of a cache that is whole: remove shards that a kill has left, and bring in features that are in shards."""
        if self.rank.count == 1:
            discard_shards(self.config.cache)
            return
        if self.rank.index == 0 and self.config.merge:
            join_shards(self.config.cache, contents, parts=[], sources={})
        together.wait()

    def _contents(self) -> CacheContents:
        config, decoding = self.config, None
        if config.decode == "fast":
            exact, fast = (self._reader(decode=decode) for decode in ("exact", "fast"))
            decoding = measured_decoding(self.backbone, exact=exact, fast=fast)
        return cache_contents(config, dataset=self.dataset, backbone=self.backbone, rank=self.rank, decoding=decoding)

    def _part(self, contents: CacheContents, rank: Rank) -> Part | None:
        if rank.count == 1:
            return None
        # The shards' own, so that one which is only begun now is cut as the others are.
        size = (found_about(self.config.cache) or contents.about)["batch_size"]
        totals = {"image": len(contents.image_ids), "text": len(contents.captions)}
        rows = {side: own_rows(side, total, batch_size=size, rank=rank) for side, total in totals.items()}
        return Part(rank.index, rank.count, rows)

    def _plan(self, writer: CacheWriter, *, together: Together) -> Plan:
        """The batches, of the size that the cache was begun with."""
        files, texts = self.dataset.image_files, self._texts
        sources = {"image": np.arange(len(files)), "text": np.arange(len(texts))}
        # Where shards are joined, the copies of all processes are asked for.
        if self.rank.count > 1 or len(writer.pending("image")):
            sources["image"] = together.share(self._image_sources, count=len(files))
        if self.rank.count > 1 or len(writer.pending("text")):
            sources["text"] = sources_of_texts(texts)
        # What could not be read when an earlier call came to it may be mended by now, and stands for no other image.
        unusable = np.isin(sources["image"], list(writer.problems))
        sources["image"] = np.where(unusable, np.arange(len(files)), sources["image"])
        return Plan(writer.about["batch_size"], sources)

    def _image_sources(self) -> np.ndarray:
        return sources_of_images(self.dataset.image_files, root=self.dataset.root, on_progress=self.on_progress)

    def _encode(self, writer: CacheWriter, plan: Plan, *, missing: np.ndarray) -> None:
        config, dataset = self.config, self.dataset
        watch = ReadWatch(_workers(config, self.rank))
        encoder = Encoder(
            backbone=self.backbone,
            reader=self._reader(decode=config.decode, watch=watch),
            workers=_workers(config, self.rank),
            watch=watch,
            read_timeout=config.read_timeout,
        )
        self._require_few_problems(writer.problems)
        absent = np.zeros(len(dataset.image_ids), dtype=bool)
        absent[missing] = True
        self.backbone.prepare()
        with workers_explained(config, dataset=dataset, watch=watch, rank=self.rank):
            Job(
                plan=plan,
                encoder=encoder,
                writer=writer,
                texts=self._texts,
                missing=absent,
                on_progress=self.on_progress,
                on_problems=self._require_few_problems,
                label={"process": f"{self.rank.index + 1} of {self.rank.count}"} if self.rank.count > 1 else {},
            ).run()

    def _require_few_problems(self, problems: dict[int, str]) -> None:
        require_few_problems(problems, self.dataset, config=self.config, rank=self.rank)

    def _reader(self, *, decode: str, watch: ReadWatch | None = None) -> ImageReader:
        return ImageReader(
            files=self.dataset.image_files,
            root=self.dataset.root,
            crop=self.backbone.crop,
            background=background_of(self.config, self.dataset),
            side=self.backbone.image_side,
            fast=decode == "fast",
            watch=watch,
        )

    def _undone(self, writer: CacheWriter) -> np.ndarray:
        """(N,) bool: the images that this call is to read."""
        undone = np.zeros(len(self.dataset.image_ids), dtype=bool)
        own = writer.rows["image"]
        states = writer.states["image"]
        undone[own.start : own.stop] = states != DONE if self.config.retry_problems else states == PENDING
        return undone

    def _result(self, contents: CacheContents, *, new: dict | None = None, plan: Plan | None = None) -> dict:
        cache, new = FeatureCache(self.config.cache), new or dict.fromkeys(SIDES, 0)
        return {
            "cache": str(self.config.cache),
            "fingerprint": contents.fingerprint,
            "images": len(cache.image_states),
            "captions": len(cache.text_states),
            "problems": len(cache.problems),
            "missing": sum(reason == NOT_FOUND for reason in cache.problems.values()),
            "single_colour": count_single_colour(cache),
            "cross_split_copies": split_copies(cache),
            "extracted_images": new["image"],
            "extracted_captions": new["text"],
            "copied": {
                side: int(np.sum(plan.sources[side] != np.arange(len(plan.sources[side])))) if plan else 0
                for side in SIDES
            },
            "batch_size": cache.about["batch_size"],
            "micro_batch": cache.micro_batch,
            "decoding": cache.about["decoding"],
            "processes": self.rank.count,
            "remarks": list(self.dataset.remarks),
        }


def _is_finished(path: Path, contents: CacheContents) -> bool:
    """Whether the cache that is asked for is there, whole."""
    if not path.exists():
        return False
    cache = FeatureCache(path, allow_incomplete=True)
    return cache.complete and cache.inputs == contents.inputs


def _begun(config: ExtractConfig, rank: Rank) -> bool:
    """Whether there is something to go on with. Raises CacheError when it was begun by other processes."""
    counts = found_parts(config.cache) - {rank.count}
    if config.cache.exists():
        # Shards that are left beside a cache are its own, joined by reference.
        if rank.count > 1:
            _require_nothing_left(config)
        return True
    if counts:
        count = min(counts)
        raise CacheError(
            f"{config.cache} was begun by {count} processes; go on with as many (torchrun --nproc-per-node {count}), "
            f"or delete the folder {config.cache}.shards to begin again."
        )
    return rank.count > 1 and bool(found_parts(config.cache))


def _require_nothing_left(config: ExtractConfig) -> None:
    cache = FeatureCache(config.cache, allow_incomplete=True)
    if not cache.complete:
        raise CacheError(f"{cache.path} was begun by one process; go on with: {cache.about['command']}")
    if config.retry_problems:
        raise CacheError(
            f"{cache.path} is whole, and what is left of it is done by one process: {to_command('extract', config)}"
        )


def _workers(config: ExtractConfig, rank: Rank) -> int:
    if config.workers is not None:
        return config.workers
    return max(1, available_cores() // rank.local_count)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes on `count` threads; None: as many as it likes.

    Bits may depend on the number, and forked processes must find no threads to wait for.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
