"""Logging of runs to experiment trackers: TensorBoard, Weights & Biases, MLflow. Libraries are imported when needed.

Several runs may be tracked at once, as several are trained at once.
"""

import importlib
import uuid
from collections.abc import Callable
from pathlib import Path

from clipret import runs
from clipret.errors import UsageError
from clipret.machine.records import Each, read_record

_PROJECT = "clipret"
# The trackers' ids of a run, kept in its folder so that a resumed run continues under the same id.
_IDS = "trackers.json"


def require_trackers(names: tuple[str, ...]) -> None:
    """Raises UsageError when the library of one of these trackers (config.TRACKERS) is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(
                f"--log {name} needs the package {name}; install it with: pip install 'clipret[{name}]'"
            ) from None


def open_trackers(names: tuple[str, ...], *, run: Path, config: dict) -> "Tracker":
    """A tracker that logs to all of these (config.TRACKERS); without names it does nothing.

    run     the run's folder
    config  its settings, JSON-ready

    Nothing is created before the first epoch is logged. Raises UsageError when a library is not installed.
    """
    require_trackers(names)
    return Tracker({name: _BEGINNINGS[name] for name in names}, run=run, config=config)


class Tracker:
    """Logs metrics to several trackers. A failure never stops the training.

    remarks  one remark for each tracker that failed; a failed tracker is not used again
    """

    def __init__(self, beginnings: dict[str, Callable], *, run: Path, config: dict):
        """beginnings: tracker -> its class, called with run, config and the first epoch to log."""
        self.remarks: list[str] = []
        self._beginnings, self._run, self._config = dict(beginnings), run, config
        self._begun = {}

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Log the metrics of an epoch, name -> value."""
        for name in list(self._beginnings):
            self._attempt(name, lambda name=name: self._tracker(name, epoch).log(epoch, values))

    def close(self) -> None:
        """Flush and close all trackers. A later log opens them again."""
        for name, tracker in list(self._begun.items()):
            self._attempt(name, tracker.close)
        self._begun.clear()

    def _tracker(self, name: str, epoch: int):
        if name not in self._begun:
            self._begun[name] = self._beginnings[name](self._run, config=self._config, epoch=epoch)
        return self._begun[name]

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        # Trackers may raise anything (servers, disks, third-party code); the training matters more.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            self.remarks.append(f"{name} failed and was left out from there on ({type(error).__name__}: {reason})")
            self._beginnings.pop(name, None)
            self._begun.pop(name, None)


class _TensorBoard:
    """An event file in the run's folder; `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: Path, *, config: dict, epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        # Epochs logged after the checkpoint of a resumed run are logged again.
        self._writer = SummaryWriter(log_dir=str(run), purge_step=epoch or None)
        if not epoch:
            settings = "\n".join(f"    {name}: {value}" for name, value in config.items())
            self._writer.add_text("config", settings, global_step=0)

    def log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=epoch)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of project `clipret`, online or offline as set by WANDB_MODE."""

    def __init__(self, run: Path, *, config: dict, epoch: int):
        wandb = importlib.import_module("wandb")
        identity = _identity(run, tracker="wandb", make=lambda: uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=_PROJECT,
            dir=str(run),
            id=identity,
            name=run.name,
            config=config,
            # Allows several runs in this process.
            reinit="create_new",
            resume="allow",
        )

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log(values, step=epoch)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of experiment `clipret`, on the configured tracking server or in mlflow.db in the runs folder.

    Uses the client, as mlflow.start_run supports one active run only.
    """

    def __init__(self, run: Path, *, config: dict, epoch: int):
        mlflow = importlib.import_module("mlflow")
        # MLflow no longer stores runs in plain folders.
        own = None if mlflow.is_tracking_uri_set() else f"sqlite:///{(run.parent / 'mlflow.db').absolute()}"
        self._client = mlflow.MlflowClient(tracking_uri=own)
        self._id = _identity(run, tracker="mlflow", make=lambda: self._create(run, config))

    def _create(self, run: Path, config: dict) -> str:
        experiment = self._client.get_experiment_by_name(_PROJECT)
        identity = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
        run_id = self._client.create_run(identity, run_name=run.name).info.run_id
        for name, value in config.items():
            self._client.log_param(run_id, name, value)
        return run_id

    def log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _identity(run: Path, *, tracker: str, make: Callable[[], str]) -> str:
    """The tracker's id of the run, created the first time."""
    path = run / _IDS
    identities = read_record(path, Each(str)) if path.exists() else {}
    if tracker not in identities:
        identities[tracker] = make()
        runs.write_json(path, identities)
    return identities[tracker]


_BEGINNINGS = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
