"""What heads and recipes bring on the test beds, beside zero-shot and fine-tuning the whole encoder.

    python scripts/results.py                           # emoji, stamps and icons-20k: some hours on two cores
    python scripts/results.py stamps --rows strong,block

The tables of docs/training.md, in Markdown, to FOLDER/results/NAME.md. Runs, sweeps and ceilings that are there are not
made again.
`make results` installs what it needs.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fine_tuning import ceiling, grid_of
from testbeds import FOLDER, make

from clipret import EvalConfig, SweepConfig, TrainConfig, evaluate, sweep, train
from clipret.config.recipes import recipe_settings
from clipret.machine.progress import Progress
from clipret.retrieval.ranks_file import rankings_path, read_rankings
from clipret.retrieval.scorings import SCORINGS
from clipret.statistics.intervals import Evidence, tabulate
from clipret.statistics.significance import estimate, student_quantile

_COLUMNS = ((None, "rsum"), (0, "R@1"), (1, "R@1"))
_K = (1, 5, 10)
_LEVEL = 0.95
_STRONG = recipe_settings("strong")


class Row(NamedTuple):
    """Settings of `train` that differ from the defaults.

    seeds  whether another seed gives another head
    tap    trained on the tokens before the last block
    rates  of a sweep whose heads are averaged, beside the settings
    """

    label: str
    settings: dict[str, Any]
    seeds: bool = True
    tap: bool = False
    rates: tuple[float, ...] = ()


ROWS = {
    "linear-margin": Row("`clipret train`: linear, margin", {}),
    "linear-infonce": Row(
        "`--loss infonce --batch-size 1024 --lr 1e-3 --warmup 20`",
        {"loss": "infonce", "batch_size": 1024, "lr": 1e-3, "warmup": 20},
    ),
    "ridge": Row("`--init ridge --epochs 0`", {"init": "ridge", "epochs": 0}, seeds=False),
    "cca": Row("`--init cca --epochs 0`", {"init": "cca", "epochs": 0}, seeds=False),
    "gated-margin": Row("`--head gated`: gated, margin", {"head": "gated"}),
    "mlp": Row("`--recipe strong --head mlp`", {**_STRONG, "head": "mlp"}),
    "strong": Row("`--recipe strong`: gated, InfoNCE", _STRONG),
    "soup": Row("soup of `strong` at three learning rates", _STRONG, rates=(1e-4, 3e-4, 1e-3)),
    "block": Row(
        "`--head block --loss infonce --batch-size 256 --lr 1e-3 --warmup 20`",
        {"head": "block", "loss": "infonce", "batch_size": 256, "lr": 1e-3, "warmup": 20},
        tap=True,
    ),
}


class Measured(NamedTuple):
    """Ranks on test by one head a seed, and the mean of the processor seconds that a head took."""

    label: str
    ranks: list[dict]
    seconds: float | None


def main() -> None:
    """Make the tables of the test beds that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["emoji", "stamps", "icons-20k"])
    parser.add_argument("--rows", default=",".join(ROWS), help="some of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    (arguments.folder / "results").mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        bed = _Bed(name, folder=arguments.folder, seeds=arguments.seeds)
        text = bed.tables(arguments.rows.split(","))
        (arguments.folder / "results" / f"{name}.md").write_text(text)
        print(f"\n{text}", flush=True)


class _Bed:
    """A test bed, and what was trained on it."""

    def __init__(self, name: str, *, folder: Path, seeds: int):
        self.name, self.folder, self.seeds = name, folder, seeds
        self.runs = folder / "results" / name
        self.cache = make(name, folder=folder)

    def tables(self, rows: list[str]) -> str:
        """Both tables: of heads, and of scorings."""
        zero = Measured("zero-shot", [self._ranks(self._zero_shot(), head="zero-shot")], None)
        heads = [self._measure(row) for row in rows]
        record = ceiling(self.name, folder=self.folder, grid=grid_of(self.name))
        ranks = self._ranks(self.folder / f"{self.name}-fine-tuned.metrics.json", head="zero-shot")
        whole = Measured("fine-tuning the whole encoder", [ranks], record["best"]["cpu_seconds"])
        parts = [_heads_table([zero, *heads, whole])]
        if "strong" in rows:
            parts.append(self._scorings_table())
        return "\n\n".join(parts) + "\n"

    def _zero_shot(self) -> Path:
        out = self.runs / "zero-shot.json"
        if not out.exists():
            self.runs.mkdir(parents=True, exist_ok=True)
            evaluate(EvalConfig(cache=self.cache, zero_shot=True, out=out))
        return out

    def _ranks(self, metrics: Path, *, head: str = "trained") -> dict:
        """Direction -> ranks by a head, of the one protocol."""
        return read_rankings(rankings_path(metrics)).protocols[0].heads[head]

    def _measure(self, name: str) -> Measured:
        """Train and measure what is not there yet."""
        row, ranks, seconds = ROWS[name], [], []
        for seed in range(self.seeds if row.seeds else 1):
            run, taken = self._run(name, seed=seed)
            if not (run / "metrics.json").exists():
                evaluate(EvalConfig(head=run, cache=self._cache(row)))
            ranks.append(self._ranks(run / "metrics.json"))
            seconds.append(taken)
        return Measured(row.label, ranks, float(np.mean(seconds)))

    def _cache(self, row: Row) -> Path:
        return make(self.name, folder=self.folder, tap="block") if row.tap else self.cache

    def _run(self, row_name: str, *, seed: int) -> tuple[Path, float]:
        """A run's folder, and the processor seconds of all cores that it took."""
        row, name = ROWS[row_name], f"{row_name}-{seed}"
        about = self.runs / f"{name}.json"
        if not about.exists():
            make_run, settings = (_soup if row.rates else _trained), {"seed": seed, "runs_dir": self.runs, "name": name}
            started = time.process_time()
            run = make_run(row, cache=self._cache(row), **settings)
            record = {"run": str(run), "cpu_seconds": time.process_time() - started}
            print(f"\r{self.name}: {name}, {record['cpu_seconds']:.0f} processor seconds", flush=True)
            about.write_text(json.dumps(record, indent=2) + "\n")
        record = json.loads(about.read_text())
        return Path(record["run"]), record["cpu_seconds"]

    def _scorings_table(self) -> str:
        """The other scorings less cosine, of zero-shot and of the first strong head."""
        lines = ["| rsum less that of cosine | zero-shot | `strong` |", "|---|---|---|"]
        run, _ = self._run("strong", seed=0)
        for scoring in SCORINGS:
            out = self.runs / f"strong-0-{scoring}.json"
            if not out.exists():
                evaluate(EvalConfig(head=run, cache=self.cache, scoring=scoring, out=out))
            report = json.loads(out.read_text())
            cells = [_gain(report, head) for head in ("zero-shot", "trained")]
            lines.append(f"| `--scoring {scoring}` | {' | '.join(cells)} |")
        return "\n".join(lines)


def _trained(row: Row, *, cache: Path, seed: int, runs_dir: Path, name: str) -> Path:
    config = TrainConfig(cache=cache, runs_dir=runs_dir, name=name, seed=seed, **row.settings)
    return Path(train(config, on_progress=partial(_tell, name))["run"])


def _soup(row: Row, *, cache: Path, seed: int, runs_dir: Path, name: str) -> Path:
    axes = {**row.settings, "lr": list(row.rates)}
    config = SweepConfig(cache=cache, runs_dir=runs_dir, name=name, seeds=(seed,), axes=axes, soup=True)
    return Path(sweep(config, on_progress=partial(_tell, name))["soup"]["run"])


def _tell(name: str, progress: Progress) -> None:
    print(f"\r  {name}: {progress.phase} {progress.done} of {progress.total}", end="", flush=True)


def _gain(report: dict, head: str) -> str:
    scoring = report["scoring"]
    low, high = scoring["intervals"]["gain"][head]["rsum"]
    return f"{scoring['rsum'][head] - report['rsum'][head]:+.3f} [{low:.3f}, {high:.3f}]"


def _heads_table(measured: list[Measured]) -> str:
    """First zero-shot, last the ceiling; intervals over images and seeds."""
    every = [ranks for one in measured for ranks in one.ranks]
    evidence = Evidence(tabulate(every, k=_K, families=("R",)), _COLUMNS, k=_K)
    ends = np.cumsum([len(one.ranks) for one in measured]).tolist()
    places = [tuple(range(end - len(one.ranks), end)) for end, one in zip(ends, measured, strict=True)]
    lines = [
        "| Head | rsum | t2i R@1 | i2t R@1 | Share of the ceiling's gain, % | Processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    for one, members in zip(measured, places, strict=True):
        estimated = estimate(evidence, members, level=_LEVEL)
        low, high = estimated.low[0], estimated.high[0]
        rsum = f"{estimated.value[0]:.3f} [{low:.3f}, {high:.3f}]"
        recalls = " | ".join(f"{100 * value:.1f}" for value in estimated.value[1:])
        share = ""
        if members not in (places[0], places[-1]):
            ends = share_of_gain(evidence, heads=members, zero=places[0], whole=places[-1])
            share = "none" if np.isnan(ends[0]) else "{} [{}, {}]".format(*(round(100 * end) for end in ends))
        seconds = "" if one.seconds is None else f"{one.seconds:,.1f}"
        lines.append(f"| {one.label} | {rsum} | {recalls} | {share} | {seconds} |")
    return "\n".join(lines)


def share_of_gain(
    evidence: Evidence, *, heads: tuple[int, ...], zero: tuple[int, ...], whole: tuple[int, ...]
) -> tuple[float, float, float]:
    """(heads - zero) / (whole - zero) of rsum, the first column, and its interval over other images and other seeds of
    the heads: the shares s at which heads - zero - s (whole - zero) is not shown to differ from 0.

    heads, zero, whole  their places in the evidence; of each group the mean counts

    All three are NaN where the gain of the whole is itself not shown to differ from 0. Source: Fieller, Some
    problems in interval estimation, Journal of the Royal Statistical Society B, 1954.
    """

    def mixture(**shares: float) -> np.ndarray:
        weights, groups = np.zeros(len(evidence.points)), {"heads": heads, "zero": zero, "whole": whole}
        for name, share in shares.items():
            weights[list(groups[name])] += share / len(groups[name])
        return weights

    def is_nothing(weights: np.ndarray, *, seeds: float) -> bool:
        """Whether a difference could be 0."""
        images = evidence.variance(weights)[0]
        reach = (normal * images + wide * seeds) / np.sqrt(images + seeds) if images + seeds else 0.0
        return bool(abs((weights @ evidence.points)[0]) <= reach)

    normal, wide = (student_quantile(1 - _LEVEL, count - 1) for count in (evidence.images, max(2, len(heads))))
    gain = mixture(whole=1.0, zero=-1.0)
    if is_nothing(gain, seeds=0.0):
        return np.nan, np.nan, np.nan
    share = float((mixture(heads=1.0, zero=-1.0) @ evidence.points)[0] / (gain @ evidence.points)[0])
    seeds = evidence.points[list(heads), 0].var(ddof=1) / len(heads) if len(heads) > 1 else 0.0

    def is_possible(value: float) -> bool:
        return is_nothing(mixture(heads=1.0, whole=-value, zero=value - 1), seeds=seeds)

    return share, _last(is_possible, share, step=-1.0), _last(is_possible, share, step=1.0)


def _last(is_possible: Callable[[float], bool], start: float, *, step: float) -> float:
    """The last possible value from start on in steps, to 0.001."""
    inside, outside = start, start + step
    while is_possible(outside):
        inside, outside = outside, outside + step
    while abs(outside - inside) > 1e-3:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_possible(middle) else (inside, middle)
    return inside


if __name__ == "__main__":
    main()
