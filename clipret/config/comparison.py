"""Settings of comparisons, and of the intervals beside every figure."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import MOST_SEED, as_paths, at_least, one_of, within
from clipret.config.choices import PROTOCOLS, SEED
from clipret.config.evaluation import EvalConfig
from clipret.config.metric_names import METRICS, check_cuts, check_metrics, columns, cut_of, family_of
from clipret.errors import UsageError

FORMATS = ("table", "markdown", "latex", "csv", "html", "json")
ZERO_SHOT = "zero-shot"
# Three minutes on two cores for two to four heads of 5,000 images, five for ten; the smallest p-value is then 1e-7.
MOST_FLIPS = 10_000_000
# What is said of a pair, a and b.
A_BETTER, B_BETTER, NOT_SHOWN, NO_TEST = "A better", "B better", "no difference shown", "no test"
_SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html", ".json": "json"}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of stage 2, comparison.

    runs          what is compared, two at least: folders of runs, files that eval wrote (metrics or ranks), either with
                  @ALPHA for the head of wise-ft ALPHA that was measured beside it, and the word zero-shot, which is
                  CLIP itself as the first of the others was measured beside it
    metrics       what is shown and tested: names with their K (R@1, mAP@10), families without (R: at every K), names
                  without a K (median_rank, MRR, ...), and rsum, over both directions
    k             the K of families, and those that rsum adds up
    protocol      by which protocol; None: the first that all were measured by
    level         of the intervals
    alpha         the chance, at most, that any difference is said to be shown where there is none
    permutations  flips of the signs that p-values and intervals of differences are made from, at least; more where the
                  family of tests needs it
    seed          decides the flips
    format        table, markdown, latex, csv, html or json; None: by out's suffix, or table
    out           where the result is written; None: nowhere
    """

    runs: tuple[str, ...]
    metrics: tuple[str, ...] = ("R", "rsum")
    k: tuple[int, ...] = EvalConfig.k
    protocol: str | None = None
    level: float = 0.95
    alpha: float = 0.05
    permutations: int = 10_000
    seed: int = SEED
    format: str | None = None
    out: Path | None = None

    def __post_init__(self):
        as_paths(self, "out")
        object.__setattr__(self, "runs", tuple(str(word) for word in self.runs))
        object.__setattr__(self, "k", check_cuts(self.k))
        object.__setattr__(self, "metrics", check_metrics(self.metrics))
        if len(self.runs) < 2:
            given = self.runs[0] if self.runs else "nothing"
            raise UsageError(f"there is {given} to compare; expected two runs or more, or a run and {ZERO_SHOT}.")
        if self.protocol is not None:
            one_of("protocol", self.protocol, allowed=PROTOCOLS)
        within("permutations", self.permutations, low=100, high=MOST_FLIPS)
        at_least("seed", self.seed, low=0, at_most=MOST_SEED)
        for option in ("level", "alpha"):
            if not 0 < getattr(self, option) < 1:
                raise UsageError(f"--{option} is {getattr(self, option)}; expected a value between 0 and 1.")
        self._choose_format()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the metrics, families written out: such as R@1, R@5, R@10, rsum."""
        return columns(self.metrics, k=self.k)

    @property
    def families(self) -> tuple[str, ...]:
        """The families (METRICS) that the columns are of, R with rsum."""
        families = {family_of(name) for name in self.columns}
        return tuple(name for name in METRICS if name in families)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Every K that the columns need."""
        return tuple(sorted({*self.k, *filter(None, map(cut_of, self.columns))}))

    def _choose_format(self) -> None:
        if self.format is not None:
            one_of("format", self.format, allowed=FORMATS)
            if self.out and self.format == "table":
                raise UsageError(f"--format table is for a terminal; for --out take one of: {', '.join(FORMATS[1:])}.")
            return
        suffix = self.out.suffix.lower() if self.out else None
        if suffix is not None and suffix not in _SUFFIXES:
            raise UsageError(
                f"--out is '{self.out}', whose suffix is of no format; expected {', '.join(_SUFFIXES)}, or --format."
            )
        object.__setattr__(self, "format", _SUFFIXES[suffix] if suffix else "table")
