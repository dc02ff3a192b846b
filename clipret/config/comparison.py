"""Settings of comparisons and intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipret.config import shared
from clipret.config.evaluation import cuts_setting
from clipret.config.metric_names import METRICS, check_cuts, check_metrics, columns, cut_of, family_of
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

FORMATS = ("table", "markdown", "latex", "csv", "html", "json")
ZERO_SHOT = "zero-shot"
# The heads that trained ones start from: the encoder's own, or of encoders that were never aligned one in closed form.
BASELINES = (ZERO_SHOT, "closed-form")
# Three minutes on two cores for two to four heads of 5,000 images, five for ten; the smallest p-value is then 1e-7.
MOST_FLIPS = 10_000_000
# Verdicts on a pair, a and b.
A_BETTER, B_BETTER, NOT_SHOWN, NO_TEST = "A better", "B better", "no difference shown", "no test"
_SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html", ".json": "json"}


@documented
@dataclass(frozen=True)
class CompareConfig:
    """Settings of stage 2, comparison."""

    runs: tuple[str, ...] = setting(
        help="Folders of runs, files that eval wrote, and the word zero-shot, or closed-form where encoders have no "
        "projections; RUN@0.5 is its head of wise-ft 0.5, and RUN@nnn its head by the scoring nnn.",
        positional=True,
        metavar="RUN RUN ...",
    )
    metrics: tuple[str, ...] = setting(
        ("R", "rsum"), "What is shown and tested: R@1, mAP@10, R (at every K), median_rank, rsum ..."
    )
    k: tuple[int, ...] = cuts_setting()
    protocol: str | None = shared.one_protocol("the first that all have")
    level: float = setting(0.95, "Level of the intervals.", above=0, below=1)
    alpha: float = setting(0.05, "Chance, at most, that any difference is shown where there is none.", above=0, below=1)
    permutations: int = setting(
        10_000,
        "Sign flips that p-values and intervals of differences are made from, at least.",
        between=(100, MOST_FLIPS),
    )
    out: Path | None = setting(None, "File to write the result to: .md, .tex, .csv, .html or .json.", shown="nowhere")
    format: str | None = setting(None, f"{', '.join(FORMATS)}.", shown="by --out, or table", choices=FORMATS)
    seed: int = shared.seed("Decides which signs are flipped.")

    def __post_init__(self):
        object.__setattr__(self, "runs", tuple(str(word) for word in self.runs))
        object.__setattr__(self, "k", check_cuts(self.k))
        object.__setattr__(self, "metrics", check_metrics(self.metrics))
        check(self)
        if len(self.runs) < 2:
            only = f"only `{self.runs[0]}` was given" if self.runs else "nothing was given"
            raise UsageError(f"{only}; name two runs or more to compare, or a run and one of {', '.join(BASELINES)}.")
        self._choose_format()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the metrics, with families expanded: such as R@1, R@5, R@10, rsum."""
        return columns(self.metrics, k=self.k)

    @property
    def families(self) -> tuple[str, ...]:
        """The families (METRICS) of the columns; rsum needs R."""
        families = {family_of(name) for name in self.columns}
        return tuple(name for name in METRICS if name in families)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Every K that the columns need."""
        return tuple(sorted({*self.k, *filter(None, map(cut_of, self.columns))}))

    def _choose_format(self) -> None:
        if self.format is not None:
            if self.out and self.format == "table":
                raise UsageError(f"--format table is for a terminal; for --out take one of: {', '.join(FORMATS[1:])}.")
            return
        suffix = self.out.suffix.lower() if self.out else None
        if suffix is not None and suffix not in _SUFFIXES:
            raise UsageError(
                f"--out is '{self.out}', whose suffix is of no format; expected {', '.join(_SUFFIXES)}, or --format."
            )
        object.__setattr__(self, "format", _SUFFIXES[suffix] if suffix else "table")


def has_baseline(result: Mapping[str, Any]) -> bool:
    """Whether the result of a sweep has figures of a baseline."""
    return any(name.replace("-", "_") in result for name in BASELINES)


def baseline_of(result: Mapping[str, Any]) -> tuple[str, dict]:
    """Which of BASELINES the result of a sweep is compared with, and its figures."""
    name = next(name for name in BASELINES if name.replace("-", "_") in result)
    return name, result[name.replace("-", "_")]
