"""The folder of a sweep: sweep.json, from which it is resumed, sweep.csv, one line per run, and the run folders."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipret import runs
from clipret.config import TrainConfig, to_dict
from clipret.config.checks import unknown_settings
from clipret.config.sweeps import MOST_RUNS, SweepConfig
from clipret.config.training import in_use
from clipret.errors import RunError, UsageError
from clipret.machine.escaping import csv_cell
from clipret.machine.files import replaced
from clipret.machine.own_code import label
from clipret.machine.records import RecordError, read_record
from clipret.sweeps.combining import varied
from clipret.sweeps.forms import FORM, require_agreement

STATE, TABLE = runs.SWEEP
FORMAT = 1
_LONGEST_NAME = 100


@dataclass(kw_only=True)
class Sweep:
    """A sweep and its progress.

    path            its folder
    config          settings as the user gave them
    fingerprint     of the cache
    configurations  the configurations to train, with default seed and name
    failed          name of run -> why it failed
    seconds         elapsed time
    result          the result; None: not complete
    recorded        settings as in sweep.json; None: those of config
    code            user-defined losses and heads, as returned by autograd.describe_codes
    """

    path: Path
    config: SweepConfig
    fingerprint: str
    configurations: list[TrainConfig]
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    result: dict | None = None
    recorded: dict | None = None
    code: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        require_runs(len(self.configurations), seeds=len(self.config.seeds))
        self.varied = varied(self.configurations)
        pairs = [(config, seed) for config in self.configurations for seed in self.config.seeds]
        self.trainings = [
            replace(config, name=self._name(config, number=number, seed=seed), runs_dir=self.path, seed=seed)
            for number, (config, seed) in enumerate(pairs, start=1)
        ]

    def of(self, place: int) -> list[TrainConfig]:
        """The trainings of a configuration, one per seed."""
        count = len(self.config.seeds)
        return self.trainings[place * count : (place + 1) * count]

    def settings(self, config: TrainConfig) -> dict[str, Any]:
        """The varied settings of one configuration; None for a setting that it does not use, or that is None."""
        return {name: getattr(config, name) if in_use(vars(config), name) else None for name in self.varied}

    def save(self) -> None:
        """Write sweep.json. Raises RunError when it cannot be written."""
        self.write(STATE, lambda path: runs.write_json(path, self.content()))

    def content(self) -> dict[str, Any]:
        """The content of sweep.json."""
        return {
            "format": FORMAT,
            "cache": {"path": str(self.config.cache), "fingerprint": self.fingerprint},
            "config": self.recorded or to_dict(self.config),
            "configurations": [to_dict(config) for config in self.configurations],
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "result": self.result,
            **({"code": self.code} if self.code else {}),
        }

    def save_table(self, results: dict[str, dict], *, spreads: list[dict | None]) -> None:
        """Write sweep.csv: results by name of run, spreads of val_rsum by configuration (None: runs are missing)."""
        rows = []
        for number, config in enumerate(self.trainings):
            place = number // len(self.config.seeds)
            rows.append(self._row(config, results.get(config.name, {}), place=place, spread=spreads[place] or {}))
        text = io.StringIO(newline="")
        lines = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        lines.writeheader()
        lines.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
        self.write(TABLE, lambda path: _write_text(path, text.getvalue()))

    def _row(self, config: TrainConfig, result: dict, *, place: int, spread: dict) -> dict[str, Any]:
        error = self.failed.get(config.name, "")
        row = {"run": config.name, "configuration": place + 1, **self.settings(config), "seed": config.seed}
        row["state"] = "failed" if error else "complete" if result else "to do"
        row |= {name: result.get(name) for name in ("val_rsum", "kept_epoch", "epochs", "seconds")}
        row |= {f"val_rsum_{name}": spread.get(name) for name in ("mean", "std")}
        return {**row, "error": error}

    def _name(self, config: TrainConfig, *, number: int, seed: int) -> str:
        """Such as 0004-margin-linear-margin0.2-lr0.0003-seed1."""
        words = [f"{number:04d}", label(config.loss), label(config.head)]
        for name, value in self.settings(config).items():
            if name not in ("loss", "head") and value is not None:
                words.append(f"{name.replace('_', '-')}{value}")
        name = re.sub(r"[^\w.+-]", "_", "-".join(words))[:_LONGEST_NAME].rstrip("-")
        return f"{name}-seed{seed}"

    def write(self, name: str, write: Callable[[Path], None]) -> None:
        try:
            write(self.path / name)
        except OSError as error:
            raise RunError(
                f"cannot write {self.path / name}: {error.strerror}. Runs that were trained are kept; once that is "
                f"fixed, go on with: clipret sweep --resume {self.path}"
            ) from None


def begin(
    folder: Path,
    config: SweepConfig,
    *,
    fingerprint: str,
    configurations: list[TrainConfig],
    code: dict[str, dict[str, str]],
) -> Sweep:
    """Start a sweep in a folder of make_folder and write its sweep.json.

    Raises RunError when the file cannot be written; the folder is then removed.
    """
    sweep = Sweep(path=folder, config=config, fingerprint=fingerprint, configurations=configurations, code=code)
    if not runs.is_empty(folder):
        # Another process started it between the creation of the folder and the lock.
        raise runs.is_taken(folder)
    try:
        runs.write_json(folder / STATE, sweep.content())
    except BaseException as error:
        runs.discard(folder)
        if isinstance(error, OSError):
            raise runs.not_begun(folder, error) from None
        raise
    return sweep


def require_runs(configurations: int, *, seeds: int) -> None:
    """Raise UsageError when there are more than MOST_RUNS runs."""
    if configurations * seeds > MOST_RUNS:
        raise UsageError(
            f"{configurations:,} configurations with {seeds:,} seeds each are {configurations * seeds:,} runs, more "
            f"than {MOST_RUNS:,}; give fewer values or --seeds, or draw some with --random N."
        )


def make_folder(config: SweepConfig) -> Path:
    """Create the sweep's folder: its name, or the next free number. Raises RunError when that fails."""
    if config.name is not None:
        return runs.make_run(config.runs_dir, name=config.name, kind="")
    while True:
        matches = (re.fullmatch(r"sweep-(\d{4,})", path.name) for path in config.runs_dir.glob("sweep-*"))
        name = f"sweep-{max((int(match[1]) for match in matches if match), default=0) + 1:04d}"
        try:
            return runs.make_run(config.runs_dir, name=name, kind="")
        except RunError:
            # If two sweeps start at once, the one that loses the race for a number takes the next.
            if not (config.runs_dir / name).exists():
                raise


def read_sweep(path: Path) -> Sweep:
    """Read the sweep in a folder. Raises RunError when it is no sweep, or cannot be read."""
    path = runs.named(path)
    file = path / STATE
    try:
        content = read_record(file, FORM, version=FORMAT)
        for kind, settings in [
            (SweepConfig, content["config"]),
            *((TrainConfig, c) for c in content["configurations"]),
        ]:
            if unknown := unknown_settings(kind, settings):
                raise RecordError(f"it has settings that this clipret does not know: {unknown}")
        sweep = Sweep(
            path=path,
            config=SweepConfig(**{**content["config"], "axes": {}, "name": path.name, "runs_dir": path.parent}),
            fingerprint=content["cache"]["fingerprint"],
            configurations=[TrainConfig(**config) for config in content["configurations"]],
            failed=content["failed"],
            seconds=content["seconds"],
            result=content["result"],
            recorded=content["config"],
            code=content.get("code", {}),
        )
        require_agreement(sweep)
        return sweep
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a sweep: it has no {STATE}; expected a folder made by clipret sweep.") from None
    except (OSError, RecordError, UsageError) as error:
        raise RunError(
            f"{file} cannot be read: {runs.reason(error)}; start the sweep again with this clipret."
        ) from None


def _write_text(path: Path, text: str) -> None:
    with replaced(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
