"""features.h5 -> a sweep: runs, a leaderboard by validation, and the test results of the best configuration."""

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clipret import runs
from clipret.cache import FeatureCache, open_features
from clipret.cache.image_keys import image_keys
from clipret.config import EvalConfig, TrainConfig, to_command
from clipret.config.sweeps import SWEPT, SweepConfig
from clipret.config.training import in_use
from clipret.errors import CacheMismatchError, LeakageError, RunError, TrainingError, UsageError
from clipret.evaluation.stage import evaluate
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.protocols.leakage import check_images, training_images, training_keys
from clipret.protocols.protocol import default_protocol, make_protocol, split_protocol
from clipret.retrieval.baseline import baseline_name
from clipret.sweeps.combining import configurations
from clipret.sweeps.folder import Sweep, begin, make_folder, read_sweep, require_runs
from clipret.sweeps.ranking import leaderboard, measured_figures, remarks, spreads
from clipret.sweeps.soup import make_soup
from clipret.training import autograd, train_many

_SAVE_EVERY_SECONDS = 1.0


def sweep(
    config: SweepConfig,
    *,
    on_progress: ProgressCallback = silent,
    on_begin: Callable[[Path], None] = lambda folder: None,
) -> dict:
    """Train every configuration with every seed, rank them by validation and measure the best on the test split.

    on_progress  called with phase "epochs", of all runs together, then with phase "soup", if there is one, and "test"
    on_begin     called with the sweep's folder as soon as resume_sweep could resume it

    Configurations are ranked by their mean validation rsum over the seeds. The test split is measured after that, and
    only for the best configuration unless config.test_all. In the end the heads of all but the best config.keep_heads
    configurations are deleted.

    Returns sweep (its folder), cache, runs, failed (how many), varied and fixed settings, configurations (best first,
    as returned by ranking.leaderboard, with test as returned by ranking.measured_figures, or None), chosen (the first,
    and the command that trains it), zero_shot or, of encoders that were
    never aligned, closed_form (val_rsum, and test in the same form), protocol of the test results,
    test_all, remarks and seconds, and with config.soup: soup, as soup.make_soup returns it, with test as that of a
    configuration. sweep.json holds the same.

    Raises UsageError, CacheError, RunError, LeakageError when test images are also in train, or TrainingError when no
    run could be trained.
    """
    cache = open_features(config.cache)
    cache.require_pairs()
    _require_validation(cache)
    configs = configurations(config)
    require_runs(len(configs), seeds=len(config.seeds))
    _require_clean_test(cache, configs)
    # Where it goes on, another folder may be the current one.
    configs = [autograd.with_whole_paths(config) for config in configs]
    code = autograd.describe_codes(configs, named=True)
    folder = make_folder(config)
    with runs.locked(folder):
        begun = begin(folder, config, fingerprint=cache.fingerprint, configurations=configs, code=code)
        on_begin(begun.path)
        return _go_on(begun, cache=cache, on_progress=on_progress)


def resume_sweep(path: Path | str, *, on_progress: ProgressCallback = silent) -> dict:
    """Resume an interrupted sweep; complete runs are not trained again. Returns as sweep does.

    Raises RunError when it is no sweep, and CacheMismatchError when its cache is not the one that it was started with.
    """
    begun = read_sweep(Path(path))
    cache = open_features(begun.config.cache)
    if cache.fingerprint != begun.fingerprint:
        raise CacheMismatchError(
            f"{cache.path} is not the cache that {begun.path} was begun with: its fingerprint is "
            f"{cache.fingerprint[:12]}, the sweep's {begun.fingerprint[:12]}; start a new sweep on it."
        )
    _require_code(begun)
    with runs.locked(begun.path):
        # Read again under the lock: another process may have finished it meanwhile.
        return _go_on(read_sweep(begun.path), cache=cache, on_progress=on_progress)


def _require_code(begun: Sweep) -> None:
    """Raise RunError if a user-defined loss or head has changed since the sweep began."""
    if begun.result is not None:
        return
    for word, now in autograd.describe_codes(begun.configurations, named=False).items():
        before = begun.code.get(word, {}).get("sha256", "unknown")
        if now["sha256"] != before:
            raise RunError(
                f"{now['path']} has changed since {begun.path} was begun (sha256 {before[:12]}, now "
                f"{now['sha256'][:12]}); restore it, or start a new sweep."
            )


def _go_on(begun: Sweep, *, cache: FeatureCache, on_progress: ProgressCallback) -> dict:
    if begun.result is None:
        started, before = time.perf_counter(), begun.seconds
        try:
            results = _train(begun, on_progress=on_progress)
            result = _result(begun, results, cache=cache, on_progress=on_progress)
        finally:
            begun.seconds = before + time.perf_counter() - started
            begun.save()
        begun.result = {**result, "seconds": round(begun.seconds, 3)}
        # Before any head is deleted, as it could not be measured again.
        begun.save()
    for entry in begun.result["configurations"][begun.config.keep_heads :]:
        for config in begun.of(entry["number"] - 1):
            (begun.path / config.name / runs.HEAD).unlink(missing_ok=True)
    for name in begun.failed:
        (begun.path / name / runs.CHECKPOINT).unlink(missing_ok=True)
    return begun.result


def _require_validation(cache: FeatureCache) -> None:
    try:
        split_protocol(cache, split="val")
    except UsageError as error:
        raise UsageError(
            f"{cache.path} has no val split, by which a sweep ranks its configurations: {error} Extract with a val "
            f"split, or train single runs with: clipret train --cache {shlex.quote(str(cache.path))}"
        ) from None


def _require_clean_test(cache: FeatureCache, configs: list[TrainConfig]) -> None:
    """Raise LeakageError when test images are also among the training images."""
    try:
        measured = make_protocol(cache, default_protocol(cache)).image_rows
    except UsageError:
        # There will be no test results, with a remark.
        return
    for without_copies in {config.drop_cross_split_duplicates for config in configs}:
        trained = training_images(cache, without_copies=without_copies).image_rows
        leak = check_images(image_keys(cache, measured), training_keys(image_keys(cache, trained)))
        if leak["trained_on"]:
            raise LeakageError(
                f"{leak['trained_on']:,} of the {leak['images']:,} test images of {cache.path} are images of train "
                f"too, and the best configuration is measured on them; give --drop-cross-split-duplicates, which "
                f"leaves those of train out."
            )


def _train(begun: Sweep, *, on_progress: ProgressCallback) -> dict[str, dict]:
    """Train the runs that are not complete; returns name -> result of all runs that did not fail."""
    stored = {config.name: runs.read_result(begun.path / config.name) for config in begun.trainings}
    results = {name: result for name, result in stored.items() if result is not None}
    for name, result in results.items():
        if result["val_rsum"] is None:
            raise RunError(
                f"{begun.path / name / runs.RESULT} has no val_rsum, by which a sweep chooses; delete it, and go on "
                f"with: clipret sweep --resume {shlex.quote(str(begun.path))}"
            )
    left = [config for config in begun.trainings if config.name not in begun.failed]
    for config in left:
        # Left by a process that was killed before it wrote the config.
        if not (begun.path / config.name / runs.CONFIG).exists():
            shutil.rmtree(begun.path / config.name, ignore_errors=True)
    saved = 0.0

    def note(place: int, result: dict) -> None:
        nonlocal saved
        name = left[place].name
        if "error" in result:
            begun.failed[name] = result["error"]
            begun.save()
        else:
            results[name] = result
        if time.monotonic() - saved >= _SAVE_EVERY_SECONDS:
            begun.save_table(results, spreads=spreads(begun, results))
            saved = time.monotonic()

    try:
        if any(config.name not in results for config in left):
            train_many(left, on_progress=on_progress, stack=begun.config.stack, on_run=note, going_on=True)
    finally:
        begun.save_table(results, spreads=spreads(begun, results))
    if not results:
        name, error = next(iter(begun.failed.items()))
        raise TrainingError(f"all {len(begun.failed):,} runs of {begun.path} failed; the first, {name}: {error}")
    return results


def _result(begun: Sweep, results: dict[str, dict], *, cache: FeatureCache, on_progress: ProgressCallback) -> dict:
    entries, remarked = leaderboard(begun, results), remarks(begun, results)
    name, first = baseline_name(cache), next(iter(results.values()))
    key = name.replace("-", "_")
    baseline = {"val_rsum": first[f"{key}_val_rsum"], "test": None}
    protocol = None
    soup = make_soup(begun, results, cache=cache, on_progress=on_progress) if begun.config.soup else None
    try:
        make_protocol(cache, default_protocol(cache))
    except UsageError as error:
        remarked.append(f"no test figures: {error}".removesuffix("."))
    else:
        measured = entries if begun.config.test_all else entries[:1]
        reports = _measure(begun, measured, results=results, on_progress=on_progress)
        baseline["test"] = measured_figures(reports[:1], head=name)
        protocol = reports[0]["protocol"]
        if soup:
            report = evaluate(EvalConfig(head=Path(soup["run"]), device=begun.config.device))
            soup["test"] = measured_figures([report], head="trained")
    best = begun.configurations[entries[0]["number"] - 1]
    shared = [name for name in SWEPT if name not in begun.varied and _is_in_use(begun.configurations, name)]
    return {
        "sweep": str(begun.path),
        "cache": str(begun.config.cache),
        "runs": len(begun.trainings),
        "failed": len(begun.failed),
        "varied": begun.varied,
        "fixed": {name: getattr(best, name) for name in shared},
        "configurations": entries,
        "chosen": {**entries[0], "command": to_command("train", replace(best, seed=begun.config.seeds[0]))},
        key: baseline,
        **({"soup": soup} if soup else {}),
        "protocol": protocol,
        "test_all": begun.config.test_all,
        "remarks": remarked,
    }


def _is_in_use(configs: list[TrainConfig], name: str) -> bool:
    """Whether at least one of the configurations uses a setting."""
    return any(in_use(vars(config), name) for config in configs)


def _measure(
    begun: Sweep, entries: list[dict], *, results: dict[str, dict], on_progress: ProgressCallback
) -> list[dict]:
    """Set the test results of the entries; returns the reports of all their runs."""
    wanted = [(entry, run) for entry in entries for run in entry["runs"] if Path(run).name in results]
    reports: dict[int, list[dict]] = {}
    for number, (entry, run) in enumerate(wanted, start=1):
        report = evaluate(EvalConfig(head=Path(run), device=begun.config.device))
        reports.setdefault(entry["number"], []).append(report)
        on_progress(Progress("test", number, len(wanted)))
    for entry in entries:
        with contextlib.suppress(KeyError):
            entry["test"] = measured_figures(reports[entry["number"]], head="trained")
    return [report for several in reports.values() for report in several]
