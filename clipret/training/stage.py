"""Stage 2: features.h5 -> runs with trained heads. No image, no CLIP, no GPU needed."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipret import runs
from clipret.cache import open_features
from clipret.config import TrainConfig
from clipret.config.training import is_of_own_width
from clipret.config.unused import unused_settings
from clipret.errors import TrainingError, UsageError
from clipret.heads import HEADS
from clipret.machine.devices import choose_device, require_bfloat16
from clipret.machine.own_code import label, word_of
from clipret.machine.products import keep_freed_memory
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.retrieval.inputs import require_inputs
from clipret.training import autograd
from clipret.training.batches import steps_per_epoch
from clipret.training.data import Prepared, prepare
from clipret.training.loop import Loop, total_epochs, total_steps
from clipret.training.record import Record
from clipret.training.sizing import fitting_threads, runs_at_once
from clipret.training.stack import State, first_state, shape_of, takes_autograd
from clipret.training.starting import initial_tensors, inputs_of
from clipret.training.tracking import require_trackers


def train(config: TrainConfig, *, loss: Any = None, head: Any = None, on_progress: ProgressCallback = silent) -> dict:
    """Train a head on the cached features of the train split and write a run folder.

    loss, head   replace those of the config: a function (similarities, matches) -> scalar, and a class as heads.own
                 describes it, both at the top level of a .py file; or text as in the config
    on_progress  called after every epoch, and from time to time within a long one, with phase "epochs" and, as details,
                 loss and validation rsum

    Every epoch visits the training images in a new order, each with one of its captions drawn at random. The epoch with
    the highest validation rsum (sum of R@1, R@5, R@10 of both directions) is kept; epoch 0 is the untrained head. The
    last epoch is kept when the config says so, or without a val split. On the CPU the same config gives bit-identical
    results.

    Returns run (path), cache, kept_epoch, epochs, steps, train_images, val_rsum, zero_shot_val_rsum (None without
    val; of encoders that were never aligned None, and closed_form_val_rsum instead), scalars (log_scale and bias of
    the loss in the kept epoch, where it has any), features (where they were stored), remarks and seconds.

    Raises CacheError, UsageError, RunError or TrainingError.
    """
    own = {what: value for what, value in (("loss", loss), ("head", head)) if value is not None}
    words = {what: value if isinstance(value, str) else word_of(value, what=what) for what, value in own.items()}
    return only(train_many([replace(config, **words)], on_progress=on_progress))


def train_many(
    configs: Sequence[TrainConfig],
    *,
    on_progress: ProgressCallback = silent,
    stack: int | None = None,
    on_run: Callable[[int, dict], None] | None = None,
    going_on: bool = False,
) -> list[dict]:
    """Train several runs on one cache. Runs of equal shape are trained together and share reads of the data.

    configs   with the same cache and device
    stack     runs trained at once; None: chosen automatically, limited by memory
    on_run    called with the index in configs and the result of every finished run
    going_on  resume runs whose folders exist, and return the results of complete ones; False: an existing folder is an
              error

    Each run has the result that it would have alone. Returns what train returns, for each run; for a run that had to
    stop, run and error.
    """
    device = choose_device(configs[0].device)
    for config in configs:
        _require_precision(config, device=device)
        require_trackers(config.log)
    keep_freed_memory()
    cache = open_features(configs[0].cache)
    cache.require_pairs()
    for config in configs:
        require_inputs(cache, inputs_of(config))
    codes = [autograd.open_codes(config, named=not going_on) for config in configs]
    for config, code in zip(configs, codes, strict=True):
        if code:
            autograd.try_out(config, code, cache=cache)
    prepared = prepare(configs, cache=cache, device=device)
    job = _Job(list(configs), codes=codes, prepared=prepared, on_progress=on_progress)
    return job.train(stack=stack, on_run=on_run or (lambda place, result: None), going_on=going_on)


def _require_precision(config: TrainConfig, *, device: str) -> None:
    if config.precision != "fp32" and config.head in HEADS and HEADS[config.head].alone:
        raise UsageError(f"--precision is {config.precision}; a head of kind {config.head} is trained in fp32.")
    if config.precision == "bf16":
        require_bfloat16(device, other="fp32")
    if config.precision == "tf32" and device == "cpu":
        raise UsageError("--precision is tf32, which is for CUDA only; on the CPU use --precision fp32 or bf16.")


class _Job:
    """The runs of one call of train_many."""

    def __init__(
        self,
        configs: list[TrainConfig],
        *,
        codes: list[autograd.Codes],
        prepared: Prepared,
        on_progress: ProgressCallback,
    ):
        """codes: for each run, as returned by autograd.open_codes."""
        self._configs, self._codes, self._prepared, self._on_progress = configs, codes, prepared, on_progress
        self._cache = prepared.cache
        per_epoch = [steps_per_epoch(prepared.images(config).pairs, config) for config in configs]
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
            # Runs of a sweep are covered by the lock of the sweep; there may be thousands.
            if not runs.is_sweep(folder.parent):
                locks.enter_context(runs.locked(folder))
            results[place] = None if runs.is_empty(folder) else self._earlier_result(folder, going_on=going_on)
            if results[place] is None:
                records[place], states[place] = self._begin(place, folder)
            else:
                self._report(self._epochs[place], {})
        for places in self._groups(records):
            like = states[places[0]] or self._first(places[0])
            size = stack or runs_at_once(
                self._configs[places[0]], like, cache=self._cache, device=self._prepared.device
            )
            # Stacks of nearly equal size, rather than a small one at the end.
            size = -(-len(places) // -(-len(places) // size))
            for start in range(0, len(places), size):
                stacked = places[start : start + size]
                data = self._prepared.data(self._configs[stacked[0]])
                together = [records[place] for place in stacked]
                # Made only now: the states of a thousand runs take gigabytes.
                begun = [states.pop(place) or self._first(place) for place in stacked]
                with fitting_threads(together[0].config, cache=self._cache, runs=len(together)):
                    Loop(together, begun, data=data, report=self._report).run()
                for place in stacked:
                    results[place] = self._result(place, records[place])
                    on_run(place, results[place])
        return results

    def _folder(self, config: TrainConfig, *, going_on: bool) -> Path:
        if going_on and (config.runs_dir / config.name / runs.CONFIG).exists():
            return config.runs_dir / config.name
        return runs.make_run(config.runs_dir, name=config.name, kind=f"{label(config.loss)}-{label(config.head)}")

    def _earlier_result(self, folder: Path, *, going_on: bool) -> dict | None:
        """The result of a run to be resumed, if it is complete; else None."""
        if not going_on:
            # Another process started it between the creation of the folder and the lock.
            raise runs.is_taken(folder)
        return runs.read_result(folder)

    def _begin(self, place: int, folder: Path) -> tuple[Record, State | None]:
        """A run's record, and the state to resume from; None for a new run."""
        new, config = runs.is_empty(folder), self._configs[place]
        keys = self._prepared.images(config).keys
        try:
            record = Record(config, folder=folder, cache=self._cache, trained_on=keys, codes=self._codes[place])
            record.remarks += dict.fromkeys(code.remark for code in self._codes[place].values() if code.remark)
            # A state with init="clip" is quick to make, and has the names and shapes of nearly any other.
            quick = {} if is_of_own_width(config.init) else {"init": "clip"}
            state = record.restore(lambda: self._first(place, **quick))
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

    def _first(self, place: int, **changes) -> State:
        config = replace(self._configs[place], **changes)
        if takes_autograd(config):
            return autograd.first_state(config, self._codes[place], cache=self._cache)
        scale = float(self._cache.projections["logit_scale"])
        return first_state(config, initial_tensors(config, self._cache), logit_scale=scale)

    def _groups(self, records: dict[int, Record]) -> list[list[int]]:
        """Indices of runs, grouped by which can be trained together."""
        groups = {}
        for place, record in records.items():
            groups.setdefault((shape_of(record.config), record.epoch), []).append(place)
        return list(groups.values())

    def _report(self, epochs: int, detail: dict) -> None:
        self._done += epochs
        self._on_progress(Progress("epochs", self._done, sum(self._epochs), detail))

    def _result(self, place: int, record: Record) -> dict:
        config = record.config
        record.end_tracking()
        if record.error:
            return {"run": str(record.folder), "error": record.error}
        trained = self._prepared.images(config)
        images = len(trained.pairs)
        record.remarks += [*trained.remarks, *unused_settings(config)]
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
            **self._prepared.baseline_entries,
            **({"scalars": record.scalars} if record.scalars else {}),
            "features": self._prepared.data(config).features.placement,
            "remarks": record.remarks,
            "seconds": round(record.seconds, 3),
        }
        record.finish(result)
        return result


def only(results: list[dict]) -> dict:
    """The result of a single run. Raises TrainingError when the run had to stop."""
    (result,) = results
    if "error" in result:
        raise TrainingError(result["error"])
    return result
