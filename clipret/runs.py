"""Run folders: where one training keeps its config, head, history and metrics."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipret.errors import RunError

CONFIG, HEAD, HISTORY, METRICS = "config.json", "head.safetensors", "history.csv", "metrics.json"
CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
TRAINED_ON = "trained_on.npy"
RANKS, ERRORS = "ranks.safetensors", "errors.json"
SWEEP = ("sweep.json", "sweep.csv")
FORMAT = 1


def make_run(runs_dir: Path, *, name: str | None, kind: str) -> Path:
    """Make a new run's folder and return it.

    name  of the folder; None: the next free number and `kind`, such as 0001-margin-linear
    kind  loss and head in words

    Raises RunError when a run of that name exists or the folder cannot be made.
    """
    if runs_dir.exists() and not runs_dir.is_dir():
        raise RunError(f"{runs_dir} is not a folder; give another --runs-dir.")
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        if name is not None:
            run = runs_dir / name
            run.mkdir()
            return run
        # Two trainings may start at once: who loses the race for a number takes the next.
        while True:
            taken = [int(match[1]) for path in runs_dir.iterdir() if (match := re.match(r"(\d{4,})-", path.name))]
            try:
                run = runs_dir / f"{max(taken, default=0) + 1:04d}-{kind}"
                run.mkdir()
                return run
            except FileExistsError:
                continue
    except FileExistsError as error:
        raise RunError(f"{error.filename} exists already; give another --name, or delete it.") from None
    except OSError as error:
        raise RunError(f"cannot make a run in {runs_dir}: {error.strerror}; give another --runs-dir.") from None


def newest_run(runs_dir: Path) -> Path:
    """The run below runs_dir that was trained last. Raises RunError when there is none."""
    if runs_dir.exists() and not runs_dir.is_dir():
        raise RunError(f"{runs_dir} is not a folder; give another --runs-dir.")
    heads = list(runs_dir.glob(f"*/{HEAD}"))
    if not heads:
        raise RunError(
            f"there is no trained run in {runs_dir}/; train one with: clipret train --cache FILE, "
            f"or evaluate CLIP itself with: clipret eval --zero-shot --cache FILE"
        )
    return max(heads, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when all went well: nobody sees half of it."""
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically: a reader sees the old file or the whole new one."""
    with replaced(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_result(run: Path) -> dict | None:
    """What training of this run came to; None when it is not complete. Raises RunError when it cannot be read."""
    path = run / RESULT
    try:
        return {**json.loads(path.read_text(encoding="utf-8")), "run": str(run)}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}: {error}); train the run again.") from None


def read_config(run: Path) -> dict:
    """A run's config.json. Raises RunError when it is missing or is not one."""
    if not (run / CONFIG).exists():
        raise RunError(f"{run} is not a run: it has no {CONFIG}; expected a folder made by clipret train.")
    return read_record(run / CONFIG)


def read_record(path: Path) -> dict:
    """What a config.json says. Raises RunError when it is missing or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT and {"path", "fingerprint"} <= set(content["cache"]):
            return {**content, "config": dict(content["config"])}
    except FileNotFoundError:
        raise RunError(f"there is no {path}; expected the {CONFIG} of a run.") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}: {error}); train the run again.") from None
    raise RunError(f"{path} is not a config of format {FORMAT}; train the run again with this clipret.")
