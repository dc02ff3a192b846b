"""Resuming a run, and repeating one, from its config.json."""

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from clipret import runs
from clipret.cache import open_features
from clipret.config import TrainConfig
from clipret.config.checks import is_in_file, unknown_settings
from clipret.errors import CacheMismatchError, RunError, UsageError
from clipret.machine.own_code import is_unchanged, label, open_code
from clipret.machine.progress import ProgressCallback, silent
from clipret.training import autograd
from clipret.training.stage import only, train_many


def resume(run: Path | str, *, on_progress: ProgressCallback = silent) -> dict:
    """Resume an interrupted run from its last checkpoint; the result is that of an uninterrupted run.

    Returns what train returns; a complete run is left unchanged. Raises RunError when it is no run, and
    CacheMismatchError when its cache is not the one that it was started with.
    """
    path = runs.named(run)
    record = runs.read_config(path)
    runs.require_training(record, path)
    settings = {**record["config"], **_own_code(record, folder=path), "name": path.name, "runs_dir": path.parent}
    config = _read_config(path / runs.CONFIG, settings)
    _require_cache(config.cache, record, path=path)
    # A sweep has one lock for all of its runs.
    with runs.locked(path.parent) if runs.is_sweep(path.parent) else nullcontext():
        return only(train_many([config], on_progress=on_progress, going_on=True))


def repeated_config(path: Path | str, *, changes: dict | None = None) -> TrainConfig:
    """The settings of a run, for a new run; path: its folder or its config.json.

    changes  settings to replace

    Raises RunError when the file cannot be read, and CacheMismatchError when the cache is no longer the run's, unless
    changes give another cache.
    """
    path, changes = Path(path), changes or {}
    path = path / runs.CONFIG if path.is_dir() else path
    record = runs.read_settings(path)
    runs.require_training(record, path.parent)
    own = _own_code(record, folder=path.parent, among=set(autograd.OWN) - set(changes))
    config = _read_config(path, {**record["config"], **own, "name": None, **changes})
    if "cache" not in changes:
        _require_cache(config.cache, record, path=path)
    return config


def _own_code(record: dict, *, folder: Path, among: Collection[str] = autograd.OWN) -> dict[str, str]:
    """The settings loss and head, where they are user-defined, with a file that has not changed since the run began.

    That is the user's file or, if that was changed or removed, its copy in the run's folder.

    Raises RunError when both were changed, and UsageError when the user has never named the file on this machine.
    """
    words = {}
    for what in among:
        word = record["config"].get(what)
        if not isinstance(word, str) or not is_in_file(word):
            continue
        about = record.get("code", {}).get(what)
        if about is None:
            raise RunError(f"{folder / runs.CONFIG} does not say which file its {what} is in; train a new run.")
        path, copy = Path(about["path"]), folder / autograd.copy_name(what)
        for candidate in (copy, path):
            if is_unchanged(candidate, sha256=about["sha256"]):
                words[what] = f"{candidate}:{label(word)}"
        if what not in words:
            raise RunError(
                f"neither {path} nor {copy} is the file that {folder} was trained with (sha256 "
                f"{about['sha256'][:12]}); restore one of them, or train a new run."
            )
        open_code(words[what], named=False).load()
    return words


def _read_config(path: Path, settings: dict) -> TrainConfig:
    if unknown := unknown_settings(TrainConfig, settings):
        raise RunError(f"{path} has settings that this clipret does not know: {unknown}; train a new run.")
    try:
        return TrainConfig(**settings)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _require_cache(cache: Path, record: dict, *, path: Path) -> None:
    actual, expected = open_features(cache).fingerprint, record["cache"]["fingerprint"]
    if actual != expected:
        raise CacheMismatchError(
            f"{cache} is not the cache that {path} was made with: its fingerprint is {actual[:12]}, the run's "
            f"{expected[:12]}; to train on it all the same, give it with --cache."
        )
