"""One run during training: its history, its best head, and its folder."""

import csv
import io
import json
import shlex
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import TrainConfig, to_dict
from clipret.errors import RunError
from clipret.heads.base import Head
from clipret.heads.files import save_head, scalar_metadata
from clipret.machine.files import replaced
from clipret.machine.records import AtLeast, Each, Maybe, RecordError, parse_record
from clipret.machine.tensors import TensorsError, open_tensors, write_tensors
from clipret.retrieval.metrics import rsum
from clipret.training.autograd import Codes, build_run_head, copy_name, describe_code
from clipret.training.stack import State, head_tensors, loss_scalars
from clipret.training.tracking import open_trackers

# A killed run loses at most this much work. Not every epoch is saved: an epoch may take no longer than a checkpoint.
_SAVE_EVERY_SECONDS = 1.0
_CHECKPOINT_FORMAT = "2"
# The metadata of a checkpoint.
_PROGRESS_FORM = {
    "epoch": AtLeast(0),
    "kept_epoch": AtLeast(0),
    "best": (float, None),
    "stale": AtLeast(0),
    "seconds": float,
    # Checkpoints of before have none.
    "scalars": Maybe(Each(float)),
}


class Record:
    """A run's folder, and everything needed to resume the run.

    epoch         finished epochs
    kept_epoch    the epoch whose head is kept
    best          validation rsum of that epoch; None without a val split
    scalars       of the loss in that epoch, by name, as stack.loss_scalars returns them
    remarks       remarks for the user
    error         why the run had to stop; None: no error
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        folder: Path,
        cache: FeatureCache,
        trained_on: np.ndarray | None = None,
        codes: Codes | None = None,
    ):
        """trained_on as save_head takes it; codes as returned by autograd.open_codes."""
        self.config, self.folder, self._cache, self.codes = config, folder, cache, codes or {}
        self.epoch, self.kept_epoch, self.best, self.error = -1, 0, None, None
        self.remarks: list[str] = []
        self.scalars: dict[str, float] = {}
        self._stale, self._trained_on = 0, trained_on
        self._kept: State | None = None
        self._rows: list[dict] = []
        self._earlier = 0.0
        self._started = self._saved = time.perf_counter()
        self._trackers = open_trackers(config.log, run=folder, config=to_dict(config))

    @property
    def seconds(self) -> float:
        """Training time of the run, including time before an interruption."""
        return self._earlier + time.perf_counter() - self._started

    @property
    def exhausted(self) -> bool:
        """Whether the patience of early stopping is used up."""
        return self.config.patience is not None and self._stale >= self.config.patience

    def begin(self) -> None:
        """Write the files that are needed to repeat the run."""
        record = {
            "format": runs.FORMAT,
            "config": to_dict(self.config),
            "cache": {"path": str(self.config.cache), "fingerprint": self._cache.fingerprint},
            "versions": {name: version(name) for name in ("clipret", "torch", "numpy")},
        }
        if self.codes:
            record["code"] = {what: describe_code(code) for what, code in self.codes.items()}
            for what, code in self.codes.items():
                with replaced(self.folder / copy_name(what)) as unfinished:
                    unfinished.write_bytes(code.source)
        runs.write_json(self.folder / runs.CONFIG, record)

    def head(self, tensors: State) -> Head:
        """The head of these tensors (stack.head_tensors), for evaluation."""
        return build_run_head(self.config, tensors, codes=self.codes, cache=self._cache)

    def add(self, state: State, *, loss: float | None, rate: float | None, measured: dict | None) -> float | None:
        """Record a finished epoch; returns its validation rsum, None without a val split.

        measured  metrics by direction on val, as fractions
        """
        self.epoch += 1
        score, scalars = rsum(measured) if measured else None, loss_scalars(self.config, state)
        better = score is None or self.best is None or score > self.best
        self._stale = 0 if better else self._stale + 1
        if better or self.config.keep == "last":
            self.kept_epoch, self.best, self.scalars = self.epoch, score, scalars
            self._kept = {name: tensor.detach().cpu().clone() for name, tensor in head_tensors(state).items()}
        row = {"epoch": self.epoch, "loss": "" if loss is None else f"{loss:.8g}"}
        row["lr"] = "" if rate is None else f"{rate:.6g}"
        if measured:
            row["val_rsum"] = f"{score:.6f}"
            for direction, metrics in measured.items():
                row |= {f"val_{direction}_{name}": f"{value:.6f}" for name, value in metrics.items()}
        row |= {name: f"{value:.6g}" for name, value in scalars.items()}
        row["seconds"] = f"{self.seconds:.3f}"
        self._rows.append(row)
        figures = {"loss": loss, "lr": rate, "val_rsum": score}
        self._trackers.log(self.epoch, {name: value for name, value in figures.items() if value is not None})
        return score

    def save(self, state: State | None, *, now: bool = False) -> None:
        """Write head, history and checkpoint, unless that was done less than a second ago.

        state  the run's state after its last finished epoch; None: the run is within an epoch or cannot be resumed, and
               the checkpoint is left unchanged
        now    write in any case

        Raises RunError when they cannot be written.
        """
        if not now and time.perf_counter() - self._saved < _SAVE_EVERY_SECONDS:
            return
        try:
            self._save_head()
            self._save_history()
            if state is not None:
                self._save_checkpoint(state)
        except OSError as error:
            raise RunError(
                f"cannot write {self.folder}: {error.strerror}. What was saved before is kept; once that is fixed, go "
                f"on with: clipret train --resume {shlex.quote(str(self.folder))}"
            ) from None
        self._saved = time.perf_counter()

    def end_tracking(self) -> None:
        """Close the trackers; their failures become remarks."""
        self._trackers.close()
        self.remarks += [remark for remark in self._trackers.remarks if remark not in self.remarks]

    def finish(self, result: dict) -> None:
        """Write the run's result, which marks it as complete."""
        (self.folder / runs.CHECKPOINT).unlink(missing_ok=True)
        runs.write_json(self.folder / runs.RESULT, result)

    def _save_head(self) -> None:
        if self._kept is None:
            return
        metadata = {
            "model": self._cache.about["model"],
            "weights_sha256": self._cache.inputs["weights_sha256"],
            "fingerprint": self._cache.fingerprint,
            "epoch": str(self.kept_epoch),
            **scalar_metadata(self.scalars),
        }
        save_head(self.head(self._kept), path=self.folder / runs.HEAD, metadata=metadata, trained_on=self._trained_on)
        self._kept = None

    def _save_history(self) -> None:
        if not self._rows:
            return
        text = io.StringIO(newline="")
        # A resumed run may have columns of another version.
        names = dict.fromkeys(name for row in self._rows for name in row)
        lines = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
        lines.writeheader()
        lines.writerows(self._rows)
        with replaced(self.folder / runs.HISTORY) as unfinished:
            unfinished.write_text(text.getvalue(), encoding="utf-8", newline="")

    def _save_checkpoint(self, state: State) -> None:
        progress = {
            "epoch": self.epoch,
            "kept_epoch": self.kept_epoch,
            "best": self.best,
            "stale": self._stale,
            "seconds": self.seconds,
            "scalars": self.scalars,
        }
        metadata = {"format": _CHECKPOINT_FORMAT, "progress": json.dumps(progress)}
        write_tensors(self.folder / runs.CHECKPOINT, state, metadata=metadata)

    def restore(self, like: Callable[[], State]) -> State | None:
        """Load the run's last checkpoint; returns its state, None when there is no checkpoint yet.

        like  returns a state with the expected names, shapes and dtypes

        Raises RunError when the checkpoint or the history cannot be read, or belongs to another run.
        """
        path = self.folder / runs.CHECKPOINT
        if not path.exists():
            return None
        try:
            file = open_tensors(path)
            if file.metadata.get("format") != _CHECKPOINT_FORMAT or "progress" not in file.metadata:
                raise RecordError(f"it is no checkpoint of format {_CHECKPOINT_FORMAT}")
            progress = parse_record(file.metadata["progress"], _PROGRESS_FORM)
            expected = like()
            file.require_dtypes(("F32",), names={name for name in expected if expected[name].dtype == torch.float32})
            if file.shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
                raise RecordError("it is of a run with other settings than config.json's")
            state = file.read()
            self._rows = self._read_history(progress["epoch"])
        except (OSError, TensorsError, RecordError) as error:
            raise RunError(
                f"{path} cannot be read: {runs.reason(error)}; delete it, and the run starts again from its first "
                f"epoch."
            ) from None
        self.epoch, self.kept_epoch, self._stale = progress["epoch"], progress["kept_epoch"], progress["stale"]
        self.best, self._earlier = progress["best"], progress["seconds"]
        self.scalars = progress.get("scalars", {})
        return state

    def _read_history(self, last: int) -> list[dict]:
        """The rows of history.csv up to epoch `last`. Raises RecordError."""
        path = self.folder / runs.HISTORY
        try:
            rows = runs.history_lines(path)[: last + 1]
        except OSError as error:
            raise RecordError(f"{path.name} beside it cannot be read: {runs.reason(error)}") from None
        except RecordError as error:
            raise RecordError(f"{path.name} beside {error}") from None
        if len(rows) <= last:
            raise RecordError(f"{path.name} beside it has not one line for each of its epochs")
        return rows
