"""The steps of an extraction, in order."""

import time
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
from clipret.cache.inspection import count_single_colour, describe_tap
from clipret.config import ExtractConfig, to_command
from clipret.datasets import load_dataset
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.captions import prompted
from clipret.errors import CacheError, UsageError
from clipret.extraction.contents import background_of, cache_contents, measured_decoding
from clipret.extraction.duplicates import sources_of_images, sources_of_texts
from clipret.extraction.encoding import Encoder, Tap
from clipret.extraction.job import Job
from clipret.extraction.limits import require_decoder, require_few_problems, workers_explained
from clipret.extraction.planning import Plan, own_rows
from clipret.extraction.processes import Rank, Together, current_rank, joined
from clipret.extraction.tapping import measured_loss, plan_taps, require_tap, sizes_of
from clipret.images import NOT_FOUND, ImageReader
from clipret.images.padding import crop_of
from clipret.machine.description import available_cores
from clipret.machine.devices import choose_device, torch_threads
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.machine.workers import ReadWatch


def extract(config: ExtractConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write the penultimate features of a data set to its cache, or complete an existing cache.

    on_progress  called after every batch, with phase "images", then "captions"; with config.tap first once with phase
                 "tokens" and, as details, how much room they will take

    Before the first batch is written, features times projection are compared with the encoder's own output. For an
    image that cannot be read, the cache has the reason instead of a feature. Equal captions are encoded once, and so
    are images with equal bytes.

    Under torchrun, every process writes its share into its own shard, and the first process joins the shards.

    Returns cache (path), fingerprint, images, captions, problems (images without a usable feature), missing (problems
    because there is no file), single_colour and cross_split_copies as in inspect_cache, extracted_images and
    extracted_captions (by this call and process; fewer than all after an interruption), copied (image, text: rows
    copied from encoded ones), taps (side -> as describe_tap has it), batch_size, micro_batch (image, text: smaller
    batches after running out of memory; 0: none), decoding, processes, remarks (errors of the data set that were
    corrected) and seconds.

    Raises DatasetError, BackboneError or CacheError, all with what to do next: DatasetError also when images are
    missing, unless config.skip_missing, and when more than config.max_problems of them cannot be read. UsageError when
    the device does not support the settings. Finished rows are kept, and the same call continues from there.
    """
    started = time.perf_counter()
    rank = current_rank()
    device = rank.device(choose_device(config.device))
    if config.compile and device == "cpu":
        raise UsageError("--compile is for a GPU; on the CPU the encoder has faster kernels of its own.")
    torch.manual_seed(config.seed)
    require_writable(config.cache)
    with joined(rank, on_progress=on_progress) as together, torch_threads(1 if device == "cpu" else None):
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
        require_decoder(config, backbone)
        require_tap(config, backbone, rank=rank)
        stage = _Stage(config, rank=rank, dataset=dataset, backbone=backbone, on_progress=on_progress)
        result = stage.run(missing, together=together, begun=begun)
    return result | {"seconds": round(time.perf_counter() - started, 3)}


@dataclass
class _Stage:
    """An extraction with its data set read and its model loaded."""

    config: ExtractConfig
    rank: Rank
    dataset: RetrievalDataset
    backbone: Backbone
    on_progress: ProgressCallback

    def __post_init__(self):
        self._texts = prompted(self.dataset.captions, prompt=self.config.prompt, cleaning=self.config.caption_clean)

    def run(self, missing: np.ndarray, *, together: Together, begun: bool) -> dict:
        """Extract what is not in the cache yet; returns what extract returns, without the seconds.

        missing  rows of the images without a file; for a cache that was started before, looked up again here
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
            # The limit is for all processes together.
            self._require_few_problems(FeatureCache(config.cache).problems)
        return self._result(contents, new=new, plan=plan)

    def _tidy(self, contents: CacheContents, together: Together) -> None:
        """For a complete cache: remove shards left by a killed process, and merge features that are in shards."""
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
        taps = plan_taps(config, self.backbone, texts=self._texts)
        loss = None
        if taps:
            self.on_progress(Progress("tokens", 1, 1, sizes_of(taps, counts=self._counts)))
            reader = self._reader(decode=config.decode if self.backbone.device.type == "cpu" else "exact")
            loss = measured_loss(self.backbone, taps, reader=reader, texts=self._texts)
        return cache_contents(
            config,
            dataset=self.dataset,
            backbone=self.backbone,
            rank=self.rank,
            decoding=decoding,
            taps=taps,
            tap_loss=loss,
        )

    @property
    def _counts(self) -> dict[str, int]:
        return {"image": len(self.dataset.image_files), "text": len(self._texts)}

    def _part(self, contents: CacheContents, rank: Rank) -> Part | None:
        if rank.count == 1:
            return None
        # The batch size of existing shards, so that a new shard is cut like the others.
        size = (found_about(self.config.cache) or contents.about)["batch_size"]
        rows = {side: own_rows(side, total, batch_size=size, rank=rank) for side, total in contents.counts.items()}
        return Part(rank.index, rank.count, rows)

    def _plan(self, writer: CacheWriter, *, together: Together) -> Plan:
        """The batches, of the size that the cache was started with."""
        files, texts = self.dataset.image_files, self._texts
        sources = {"image": np.arange(len(files)), "text": np.arange(len(texts))}
        # Joining shards needs the copies of all processes.
        if self.rank.count > 1 or len(writer.pending("image")):
            sources["image"] = together.share(self._image_sources, count=len(files))
        if self.rank.count > 1 or len(writer.pending("text")):
            sources["text"] = sources_of_texts(texts)
        # An image that an earlier call could not read may be repaired by now; no other image is copied from it.
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
            taps={side: Tap(self.backbone.widths[side], tap.width) for side, tap in writer.taps.items()},
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
            crop=crop_of(self.backbone, padded=self.config.pad_images),
            background=background_of(self.config, self.dataset),
            side=self.backbone.image_side,
            fast=decode == "fast",
            watch=watch,
        )

    def _undone(self, writer: CacheWriter) -> np.ndarray:
        """(N,) bool: the images that this call must read."""
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
            "taps": {side: describe_tap(cache, side) for side in cache.taps},
            "processes": self.rank.count,
            "remarks": list(self.dataset.remarks),
        }


def _is_finished(path: Path, contents: CacheContents) -> bool:
    """Whether this cache exists and is complete."""
    if not path.exists():
        return False
    cache = FeatureCache(path, allow_incomplete=True)
    return cache.complete and cache.inputs == contents.inputs


def _begun(config: ExtractConfig, rank: Rank) -> bool:
    """Whether the extraction was started before. Raises CacheError if by another number of processes."""
    counts = found_parts(config.cache) - {rank.count}
    if config.cache.exists():
        # Shards beside a finished cache belong to it, joined by reference.
        if rank.count > 1:
            _require_nothing_left(config)
        return True
    if counts:
        count = min(counts)
        raise CacheError(
            f"{config.cache} was started by {count} processes; continue with as many "
            f"(torchrun --nproc-per-node {count}), or delete the folder {config.cache}.shards to start again."
        )
    return rank.count > 1 and bool(found_parts(config.cache))


def _require_nothing_left(config: ExtractConfig) -> None:
    cache = FeatureCache(config.cache, allow_incomplete=True)
    if not cache.complete:
        raise CacheError(f"{cache.path} was started by one process; continue with: {cache.about['command']}")
    if config.retry_problems:
        raise CacheError(
            f"{cache.path} is complete; retry its unreadable images with one process: {to_command('extract', config)}"
        )


def _workers(config: ExtractConfig, rank: Rank) -> int:
    if config.workers is not None:
        return config.workers
    return max(1, available_cores() // rank.local_count)
