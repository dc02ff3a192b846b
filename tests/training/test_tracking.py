"""Trackers: TensorBoard's event files are read back; for the others calls are recorded, with the real signatures."""

import sys
import types

import pytest

from clipret.errors import UsageError
from clipret.training.tracking import open_trackers, require_trackers

CONFIG = {"lr": 1e-3, "loss": "margin", "log": []}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "0001-margin-linear"
    folder.mkdir(parents=True)
    return folder


def test_without_trackers_nothing_is_done(run):
    tracker = open_trackers((), run=run, config=CONFIG)
    tracker.log(0, {"loss": 1.0})
    tracker.close()
    assert tracker.remarks == []
    assert list(run.iterdir()) == []


def events(run):
    """tag -> (epoch, value) pairs of all event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    scalars = {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    (text,) = (events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"])
    return scalars, text


@pytest.mark.ci
def test_tensorboards_event_file_holds_the_figures_and_the_config(run):
    tracker = open_trackers(("tensorboard",), run=run, config=CONFIG)
    tracker.log(0, {"val_rsum": 4.5})
    tracker.log(1, {"val_rsum": 4.6, "loss": 0.25})
    tracker.close()
    scalars, text = events(run)
    assert tracker.remarks == []
    assert scalars == {"val_rsum": [(0, 4.5), (1, 4.6)], "loss": [(1, 0.25)]}
    assert "    lr: 0.001\n    loss: margin" in text


def test_epochs_that_come_again_after_an_interruption_are_in_tensorboard_once(run):
    first = open_trackers(("tensorboard",), run=run, config=CONFIG)
    for epoch in range(4):
        first.log(epoch, {"loss": float(epoch)})
    first.close()
    again = open_trackers(("tensorboard",), run=run, config=CONFIG)
    for epoch in range(2, 6):
        again.log(epoch, {"loss": 10.0 + epoch})
    again.close()
    assert events(run)[0] == {"loss": [(0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0), (5, 15.0)]}


class Calls(list):
    """The calls, in order; `broken` names the call that raises."""

    broken = ""

    def note(self, call, /, **arguments):
        if call == self.broken:
            raise ConnectionError("the server is away\nand some more")
        self.append((call, arguments))


@pytest.fixture
def wandb(monkeypatch):
    """The part of wandb 0.31 that is used."""
    calls, module = Calls(), types.ModuleType("wandb")

    class Run:
        def __init__(self, name):
            self._name = name

        def log(self, data, step=None, commit=None):
            calls.note("log", run=self._name, data=data, step=step)

        def finish(self, exit_code=None):
            calls.note("finish", run=self._name)

    def init(
        entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None,
        config_exclude_keys=None, config_include_keys=None, allow_val_change=None, group=None, job_type=None, mode=None,
        force=None, reinit=None, resume=None, resume_from=None, fork_from=None, save_code=None, tensorboard=None,
        sync_tensorboard=None, monitor_gym=None, settings=None,
    ):  # fmt: skip
        calls.note(
            "init", project=project, dir=dir, id=id, name=name, config=config, mode=mode, reinit=reinit, resume=resume
        )
        return Run(name)

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_a_run_of_its_own_for_each(wandb, run):
    other = run.with_name("0002-margin-linear")
    other.mkdir()
    trackers = [open_trackers(("wandb",), run=folder, config=CONFIG) for folder in (run, other)]
    assert wandb == []
    for tracker in trackers:
        tracker.log(0, {"loss": 0.5})
    for tracker in trackers:
        tracker.close()
    first, log, second = wandb[:3]
    assert first[1] | {"id": ""} == {
        "project": "clipret",
        "dir": str(run),
        "id": "",
        "name": "0001-margin-linear",
        "config": CONFIG,
        "mode": None,
        "reinit": "create_new",
        "resume": "allow",
    }
    assert log == ("log", {"run": "0001-margin-linear", "data": {"loss": 0.5}, "step": 0})
    assert second[1]["id"] != first[1]["id"]
    assert [call for call, _ in wandb[3:]] == ["log", "finish", "finish"]


def test_a_resumed_run_is_the_same_run_in_wandb(wandb, run):
    for epoch in (0, 1):
        tracker = open_trackers(("wandb",), run=run, config=CONFIG)
        tracker.log(epoch, {"loss": 0.5})
        tracker.close()
    identities = [arguments["id"] for call, arguments in wandb if call == "init"]
    assert len(identities) == 2
    assert len(set(identities)) == 1


@pytest.fixture
def mlflow(monkeypatch):
    """The part of mlflow 3.17 that is used."""
    calls, module = Calls(), types.ModuleType("mlflow")
    experiments = {}

    class MlflowClient:
        def __init__(self, tracking_uri=None, registry_uri=None, workspace_store_uri=None):
            calls.note("client", uri=tracking_uri)

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id=experiments[name]) if name in experiments else None

        def create_experiment(self, name, artifact_location=None, tags=None):
            calls.note("create_experiment", name=name)
            experiments[name] = "7"
            return "7"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            calls.note("create_run", experiment=experiment_id, name=run_name)
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"id of {run_name}"))

        def log_param(self, run_id, key, value, synchronous=None):
            calls.note("log_param", run=run_id, key=key, value=value)

        def log_metric(
            self, run_id, key, value, timestamp=None, step=None, synchronous=None, dataset_name=None,
            dataset_digest=None, model_id=None,
        ):  # fmt: skip
            calls.note("log_metric", run=run_id, key=key, value=value, step=step)

        def set_terminated(self, run_id, status=None, end_time=None):
            calls.note("set_terminated", run=run_id)

    module.MlflowClient = MlflowClient
    module.is_tracking_uri_set = lambda: module.uri_is_set
    module.uri_is_set = False
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return calls


def test_mlflow_gets_settings_and_metrics_in_a_file_next_to_the_runs(mlflow, run):
    tracker = open_trackers(("mlflow",), run=run, config={"lr": 1e-3, "loss": "margin"})
    tracker.log(0, {"val_rsum": 4.5})
    tracker.log(1, {"val_rsum": 4.6})
    tracker.close()
    name = "id of 0001-margin-linear"
    assert mlflow == [
        ("client", {"uri": f"sqlite:///{run.parent / 'mlflow.db'}"}),
        ("create_experiment", {"name": "clipret"}),
        ("create_run", {"experiment": "7", "name": "0001-margin-linear"}),
        ("log_param", {"run": name, "key": "lr", "value": 1e-3}),
        ("log_param", {"run": name, "key": "loss", "value": "margin"}),
        ("log_metric", {"run": name, "key": "val_rsum", "value": 4.5, "step": 0}),
        ("log_metric", {"run": name, "key": "val_rsum", "value": 4.6, "step": 1}),
        ("set_terminated", {"run": name}),
    ]


def test_mlflow_uses_the_server_of_the_environment_and_resumes_a_run(mlflow, run):
    sys.modules["mlflow"].uri_is_set = True
    for epoch in (0, 1):
        tracker = open_trackers(("mlflow",), run=run, config={})
        tracker.log(epoch, {"loss": 0.5})
        tracker.close()
    calls = [call for call, _ in mlflow]
    assert mlflow[0] == ("client", {"uri": None})
    assert calls.count("create_run") == calls.count("create_experiment") == 1
    assert calls.count("log_metric") == calls.count("set_terminated") == 2


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failed_tracker_is_one_remark_and_does_not_stop_the_others(wandb, mlflow, run, broken):
    wandb.broken = broken
    tracker = open_trackers(("wandb", "mlflow"), run=run, config={})
    for epoch in range(3):
        tracker.log(epoch, {"loss": 0.5})
    tracker.close()
    assert tracker.remarks == [
        "wandb failed and was left out from there on (ConnectionError: the server is away)",
    ]
    assert [call for call, _ in mlflow][-4:] == ["log_metric"] * 3 + ["set_terminated"]


def test_a_disk_that_is_full_is_a_remark_too(wandb, run):
    (run / "trackers.json.part").mkdir()
    tracker = open_trackers(("wandb",), run=run, config={})
    tracker.log(0, {"loss": 0.5})
    (remark,) = tracker.remarks
    assert remark.startswith("wandb failed and was left out from there on (IsADirectoryError: ")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_library_that_is_not_installed_is_reported_before_anything_starts(monkeypatch, run, name):
    monkeypatch.setitem(sys.modules, name, None)
    for check in (lambda: require_trackers((name,)), lambda: open_trackers((name,), run=run, config=CONFIG)):
        with pytest.raises(UsageError) as caught:
            check()
        assert str(caught.value) == (
            f"--log {name} needs the package {name}; install it with: pip install 'clipret[{name}]'"
        )
    assert list(run.iterdir()) == []
