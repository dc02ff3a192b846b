"""Stage 2: features.h5 -> runs with trained heads. No image, no CLIP, no GPU needed."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipret import runs
from clipret.annotations.counting import copies_in_words
from clipret.cache import FeatureCache
from clipret.cache.image_keys import image_keys, split_copies
from clipret.config import TrainConfig
from clipret.errors import TrainingError, UsageError
from clipret.heads.linear import LinearHead
from clipret.machine.devices import choose_device, require_bfloat16
from clipret.machine.products import keep_freed_memory
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols.leakage import training_images, training_keys
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum
from clipret.training.batches import steps_per_epoch
from clipret.training.features import Features
from clipret.training.loop import Data, Loop, total_epochs, total_steps
from clipret.training.pairs import Pairs
from clipret.training.record import Record
from clipret.training.sizing import fitting_threads, runs_at_once
from clipret.training.stack import State, first_state, shape_of
from clipret.training.starting import initial_tensors
from clipret.training.tracking import require_trackers


def train(config: TrainConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Train a head on the cached features of the train split and write a run folder.

    on_progress  called after every epoch, and now and then within a long one, with phase "epochs" and what is known:
                 loss, validation rsum

    Every epoch visits the training images in a new order, each with one of its captions drawn at random. The epoch with
    the highest validation rsum (sum of R@1, R@5, R@10 of both directions) is kept; epoch 0 is the head as it starts.
    The last epoch is kept when the config says so, or without a val split. On the CPU the same config gives the same
    bits.

    Returns run (path), cache, kept_epoch, epochs, steps, train_images, val_rsum, zero_shot_val_rsum (None without val),
    features (where they lived), remarks and seconds.

    Raises CacheError, UsageError, RunError or TrainingError.
    """
    return only(train_many([config], on_progress=on_progress))


def train_many(
    configs: Sequence[TrainConfig],
    *,
    on_progress: ProgressCallback = silent,
    stack: int | None = None,
    on_run: Callable[[int, dict], None] | None = None,
    going_on: bool = False,
) -> list[dict]:
    """Train runs on one cache, those of equal shape together on one read of the data, each as if it were alone.

    configs   with the same cache and device
    stack     runs trained at once; None: as many as do it best and fit
    on_run    called with the place in configs and the result of every run that is finished
    going_on  go on with runs whose folders are there, and read back those that are complete; else they are an error

    Returns what train returns, for each; of a run that cannot go on, run and error.
    """
    device = choose_device(configs[0].device)
    for config in configs:
        _require_precision(config, device=device)
        require_trackers(config.log)
    keep_freed_memory()
    job = _Job(list(configs), cache=FeatureCache(configs[0].cache), device=device, on_progress=on_progress)
    return job.train(stack=stack, on_run=on_run or (lambda place, result: None), going_on=going_on)


def _require_precision(config: TrainConfig, *, device: str) -> None:
    if config.precision == "bf16":
        require_bfloat16(device, other="fp32")
    if config.precision == "tf32" and device == "cpu":
        raise UsageError("--precision is tf32, which is for CUDA only; on the CPU use --precision fp32 or bf16.")


class _Job:
    """Some runs on a cache."""

    def __init__(self, configs: list[TrainConfig], *, cache: FeatureCache, device: str, on_progress: ProgressCallback):
        self._configs, self._cache, self._device, self._on_progress = configs, cache, device, on_progress
        self._started = time.perf_counter()
        without_copies = {config.drop_cross_split_duplicates for config in configs}
        self._trained = {dropped: _Trained.of(cache, without_copies=dropped) for dropped in without_copies}
        self._held = {_place(config): None for config in configs}
        for dropped, placement, limit in self._held:
            self._held[dropped, placement, limit] = Features(
                cache, self._trained[dropped].pairs, placement=placement, device=device, memory_limit=limit
            )
        self._validation = _validation(cache)
        self._zero_shot = None
        if self._validation is not None:
            clip = LinearHead(cache.projections).to(device)
            self._zero_shot = rsum(self._validation.measure(clip, device=device))
        per_epoch = [steps_per_epoch(self._images(config).pairs, config) for config in configs]
        self._epochs = [total_epochs(config, count) for config, count in zip(configs, per_epoch, strict=True)]
        self._per_epoch, self._done = per_epoch, 0

    def train(self, *, stack: int | None, on_run: Callable[[int, dict], None], going_on: bool) -> list[dict]:
        with contextlib.ExitStack() as locks:
            return self._train(stack=stack, on_run=on_run, going_on=going_on, locks=locks)

    def _train(
        self,
        *,
        stack: int | None,
        on_run: Callable[[int, dict], None],
        going_on: bool,
        locks: contextlib.ExitStack,
    ) -> list[dict]:
        results: list[dict | None] = [None] * len(self._configs)
        records, states = {}, {}
        for place, config in enumerate(self._configs):
            folder = self._folder(config, going_on=going_on)
            # The runs of a sweep are the sweep's, which has its own lock, and they may be thousands.
            if not runs.is_sweep(folder.parent):
                locks.enter_context(runs.locked(folder))
            results[place] = None if runs.is_empty(folder) else self._earlier_result(folder, going_on=going_on)
            if results[place] is None:
                records[place], states[place] = self._begun(config, folder)
            else:
                self._report(self._epochs[place], {})
        for places in self._groups(records):
            like = states[places[0]] or self._first(self._configs[places[0]])
            size = stack or runs_at_once(self._configs[places[0]], like, device=self._device)
            # Stacks of nearly equal size, rather than a small one at the end.
            size = -(-len(places) // -(-len(places) // size))
            for start in range(0, len(places), size):
                chosen = places[start : start + size]
                data = self._data(self._configs[chosen[0]])
                together = [records[place] for place in chosen]
                # Made here and not before: of a thousand runs they would take gigabytes.
                begun = [states.pop(place) or self._first(self._configs[place]) for place in chosen]
                with fitting_threads(together[0].config, begun[0], runs=len(together)):
                    Loop(together, begun, data=data, report=self._report).run()
                for place in chosen:
                    results[place] = self._result(place, records[place])
                    on_run(place, results[place])
        return results

    def _folder(self, config: TrainConfig, *, going_on: bool) -> Path:
        if going_on and (config.runs_dir / config.name / runs.CONFIG).exists():
            return config.runs_dir / config.name
        return runs.make_run(config.runs_dir, name=config.name, kind=f"{config.loss}-{config.head}")

    def _earlier_result(self, folder: Path, *, going_on: bool) -> dict | None:
        """What a run that is gone on with came to, if it is complete."""
        if not going_on:
            # Begun by another process, between the making of the folder and the lock.
            raise runs.is_taken(folder)
        return runs.read_result(folder)

    def _begun(self, config: TrainConfig, folder: Path) -> tuple[Record, State | None]:
        """A run's record, and the state that it goes on with; None: it is at its start."""
        new = runs.is_empty(folder)
        try:
            record = Record(config, folder=folder, cache=self._cache, trained_on=self._images(config).keys)
            state = record.restore(lambda: self._shapes(config))
            if state is not None:
                self._report(record.epoch, {})
            else:
                record.begin()
            return record, state
        except BaseException as error:
            if new:
                runs.discard(folder)
            if isinstance(error, OSError):
                raise runs.not_begun(folder, error) from None
            raise

    def _shapes(self, config: TrainConfig) -> dict[str, tuple[int, ...]]:
        """Of the state of a run, by name: those of one that starts as CLIP, which is soon made."""
        state = self._first(replace(config, init="clip"))
        return {name: tuple(tensor.shape) for name, tensor in state.items()}

    def _first(self, config: TrainConfig) -> State:
        scale = float(self._cache.projections["logit_scale"])
        return first_state(config, initial_tensors(config, self._cache), logit_scale=scale)

    def _groups(self, records: dict[int, Record]) -> list[list[int]]:
        """Places of runs that can be trained together."""
        groups = {}
        for place, record in records.items():
            groups.setdefault((shape_of(record.config), record.epoch), []).append(place)
        return list(groups.values())

    def _data(self, config: TrainConfig) -> Data:
        return Data(self._cache, self._images(config).pairs, self._held[_place(config)], self._validation, self._device)

    def _images(self, config: TrainConfig) -> "_Trained":
        return self._trained[config.drop_cross_split_duplicates]

    def _report(self, epochs: int, detail: dict) -> None:
        self._done += epochs
        self._on_progress(Progress("epochs", self._done, sum(self._epochs), detail))

    def _result(self, place: int, record: Record) -> dict:
        config = record.config
        record.end_tracking()
        if record.error:
            return {"run": str(record.folder), "error": record.error}
        images = len(self._images(config).pairs)
        record.remarks += self._images(config).remarks
        if config.batch_size > images:
            record.remarks.append(
                f"--batch-size {config.batch_size:,} is more than the {images:,} training images; every step takes all "
                f"of them"
            )
        steps = min(record.epoch * self._per_epoch[place], total_steps(config, self._per_epoch[place]))
        result = {
            "run": str(record.folder),
            "cache": str(config.cache),
            "kept_epoch": record.kept_epoch,
            "epochs": record.epoch,
            "steps": steps,
            "train_images": images,
            "val_rsum": record.best,
            "zero_shot_val_rsum": self._zero_shot,
            "features": self._data(config).features.placement,
            "remarks": record.remarks,
            "seconds": round(record.seconds, 3),
        }
        record.finish(result)
        return result


@dataclass(frozen=True)
class _Trained:
    """Images that are trained on.

    keys     as save_head takes them
    remarks  what the user should know of them
    """

    pairs: Pairs
    keys: np.ndarray | None
    remarks: list[str]

    @classmethod
    def of(cls, cache: FeatureCache, *, without_copies: bool) -> "_Trained":
        (fold,) = training_images(cache, without_copies=without_copies).folds
        pairs = Pairs.of(cache, fold)
        if pairs.texts == 1 and len(pairs) > 1:
            raise TrainingError(
                f"the {len(pairs.owners):,} training captions of {cache.path} are all the same text, so that every "
                f"caption matches every image and there is nothing to learn; expected captions that differ."
            )
        keys = training_keys(image_keys(cache, fold.image_rows))
        if without_copies:
            left_out = len(split_protocol(cache, split="train").image_rows) - len(fold.image_rows)
            one = "1 training image was left out: val or test has it too"
            several = f"{left_out:,} training images were left out: val or test has them too"
            return cls(pairs, keys, [one if left_out == 1 else several])
        copies = [
            copies_in_words(found)
            for found in split_copies(cache)
            if found["of"] == "train" and found["split"] != "restval"
        ]
        remedy = "; --drop-cross-split-duplicates leaves those of train out"
        return cls(pairs, keys, ["; ".join(copies) + remedy] if copies else [])


def _place(config: TrainConfig) -> tuple:
    """Equal for runs that share their features in memory."""
    return config.drop_cross_split_duplicates, config.features, config.memory_limit


def only(results: list[dict]) -> dict:
    """The result of a run that was trained alone. Raises TrainingError when it could not go on."""
    (result,) = results
    if "error" in result:
        raise TrainingError(result["error"])
    return result


def _validation(cache: FeatureCache) -> Gallery | None:
    """None when the cache has no val split to select the epoch on."""
    try:
        (fold,) = split_protocol(cache, split="val").folds
    except UsageError:
        return None
    return Gallery.read(cache, fold)
