"""Going on with a run, and repeating one, from what its config.json says."""

from contextlib import nullcontext
from pathlib import Path

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.config.checks import unknown_settings
from clipret.errors import CacheMismatchError, RunError, UsageError
from clipret.progress import ProgressCallback, silent
from clipret.training.stage import only, train_many


def resume(run: Path | str, *, on_progress: ProgressCallback = silent) -> dict:
    """Go on with a run that was interrupted, from its last checkpoint; it ends as it would have without.

    Returns as train does; a run that is complete already is left as it is. Raises RunError when it is no run, and
    CacheMismatchError when its cache is no longer the one that it was begun with.
    """
    path = runs.named(run)
    record = runs.read_config(path)
    config = _known(path / runs.CONFIG, {**record["config"], "name": path.name, "runs_dir": path.parent})
    _require_cache(config.cache, record, path=path)
    # A sweep has one lock for all of its runs.
    with runs.locked(path.parent) if runs.is_sweep(path.parent) else nullcontext():
        return only(train_many([config], on_progress=on_progress, going_on=True))


def repeated_config(path: Path | str, *, changes: dict | None = None) -> TrainConfig:
    """The settings of a run's config.json, or of the one in a run's folder, for a new run of them.

    changes  settings that are to be others

    Raises RunError when it cannot be read, and CacheMismatchError when the cache is no longer the run's, unless it is
    among the changes.
    """
    path, changes = Path(path), changes or {}
    path = path / runs.CONFIG if path.is_dir() else path
    record = runs.read_settings(path)
    config = _known(path, {**record["config"], "name": None, **changes})
    if "cache" not in changes:
        _require_cache(config.cache, record, path=path)
    return config


def _known(path: Path, settings: dict) -> TrainConfig:
    if unknown := unknown_settings(TrainConfig, settings):
        raise RunError(f"{path} has settings that this clipret does not know: {unknown}; train a new run.")
    try:
        return TrainConfig(**settings)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _require_cache(cache: Path, record: dict, *, path: Path) -> None:
    found, wanted = FeatureCache(cache).fingerprint, record["cache"]["fingerprint"]
    if found != wanted:
        raise CacheMismatchError(
            f"{cache} is not the cache that {path} was made with: its fingerprint is {found[:12]}, the run's "
            f"{wanted[:12]}; to train on it all the same, give it with --cache."
        )
