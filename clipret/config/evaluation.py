"""Settings of stage 2: evaluating a head."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from clipret.config import shared
from clipret.config.checks import within
from clipret.config.choices import COSINE, PROTOCOLS, SPLIT_PROTOCOLS
from clipret.config.metric_names import METRICS, check_cuts, check_metrics, columns, cut_of
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError
from clipret.metrics import RSUM

# Prefix, before alpha, of the name of an interpolated head in metrics.json and the ranks.
WISE_FT = "wise-ft "
_MOST_ALPHAS = 101
# Fewer flips do not determine the ends of an interval; more add nothing.
LEAST_RESAMPLES, MOST_RESAMPLES = 100, 1_000_000
MOST_TOP = 10_000
_ELLIPSES = ("...", "…")


def wise_ft_name(alpha: float) -> str:
    """The name of the interpolated head at that alpha: wise-ft 0.5."""
    return f"{WISE_FT}{alpha:.12g}"


def parse_cuts(text: str) -> tuple[int, ...]:
    """Parse the value of --k. Raises UsageError."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--k is '{text}'; expected whole numbers separated by commas, such as 1,5,10.") from None


def parse_alphas(text: str) -> tuple[float, ...]:
    """Parse comma-separated numbers; FIRST,SECOND,...,LAST is an arithmetic sequence. Raises UsageError."""
    words = text.split(",")
    try:
        if len(words) == 4 and words[2].strip() in _ELLIPSES:
            first, second, last = (Decimal(words[place]) for place in (0, 1, 3))
            steps = (last - first) / (second - first)
            # At least two steps, and not absurdly many.
            if 2 <= steps <= 1000 and steps == steps.to_integral_value():
                return tuple(float(first + step * (second - first)) for step in range(int(steps) + 1))
            raise ValueError
        return tuple(float(Decimal(word)) for word in words)
    except (ArithmeticError, ValueError):
        raise UsageError(
            f"--wise-ft is '{text}'; expected numbers from 0 to 1 separated by commas, such as 0.5, or "
            f"FIRST,SECOND,...,LAST in equal steps, such as 0,0.1,...,1."
        ) from None


def cuts_setting():
    """The setting k, shared by all configs with metrics at K."""
    return setting((1, 5, 10), "The K of R@K and of every other metric that has one; commas between.", parse=parse_cuts)


@documented
@dataclass(frozen=True)
class EvalConfig:
    """Settings of stage 2, evaluation."""

    cache: Path | None = setting(None, "Features to measure on.", shown="the run's own")
    head: Path | None = setting(None, "A run's folder or a head.safetensors.", shown="the newest run")
    zero_shot: bool = setting(False, "Measure the encoder's own head alone, or the closed-form one where it has none.")
    wise_ft: tuple[float, ...] = setting(
        (),
        "Also heads between zero-shot, or closed-form (0), and trained (1): 0.5, or a curve, 0,0.1,...,1.",
        parse=parse_alphas,
    )
    runs_dir: Path = shared.runs_dir()
    protocol: tuple[str, ...] = setting(
        (),
        f"One or more of {', '.join(PROTOCOLS)}; commas between.",
        shown="the data set's",
        choices=PROTOCOLS,
    )
    split: str | None = shared.measured_split()
    language: tuple[str, ...] = setting(
        (),
        "Languages to measure, such as de,fr, of a cache that has several (xm3600, xtd10).",
        shown="each by itself, and their mean",
    )
    scoring: str = setting(COSINE, "Also measure by another scoring, beside cosine.", swept=False)
    allow_leak: bool = setting(False, "Measure also on images that the head was trained on.")
    k: tuple[int, ...] = cuts_setting()
    metrics: tuple[str, ...] = setting(
        ("R", "mAP@10", "MRR", "median_rank", "rsum"),
        f"What the tables show, of {', '.join((*METRICS, RSUM))}; R is R@K at every K. metrics.json has all.",
    )
    resamples: int = setting(
        10_000, "Sign flips over images that the gain's 95 % intervals are made from; 0: no intervals."
    )
    per_query: Path | None = setting(
        None, "Also write every query's ranks and best items: FILE.parquet or FILE.csv.", metavar="FILE"
    )
    top: int = setting(10, "Best items of a query that --per-query has.", at_least=1, at_most=MOST_TOP)
    out: Path | None = setting(None, "File to write the metrics to.", shown="metrics.json of the run")
    block: int = shared.block()
    precision: str = shared.embedding_precision()
    device: str = shared.device()
    seed: int = shared.seed("Decides the sign flips.")

    def __post_init__(self):
        object.__setattr__(self, "k", check_cuts(self.k))
        object.__setattr__(self, "metrics", check_metrics(self.metrics))
        check(self)
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if self.zero_shot and not self.cache:
            raise UsageError("--zero-shot needs a cache; give it with --cache FILE.")
        self._check_alphas()
        object.__setattr__(self, "protocol", tuple(dict.fromkeys(self.protocol)))
        object.__setattr__(self, "language", tuple(dict.fromkeys(self.language)))
        if self.split is not None and not set(self.protocol) <= set(SPLIT_PROTOCOLS):
            raise UsageError(
                f"--split {self.split} and --protocol {','.join(self.protocol)} contradict each other; "
                f"every protocol but {' and '.join(SPLIT_PROTOCOLS)} has images of its own."
            )
        if self.scoring != COSINE and self.split == "train":
            raise UsageError(
                f"--scoring {self.scoring} and --split train contradict each other: train is the bank that the scoring "
                f"is made from; give another split."
            )
        if self.resamples != 0 and not LEAST_RESAMPLES <= self.resamples <= MOST_RESAMPLES:
            raise UsageError(
                f"--resamples is {self.resamples}; expected 0 for none, or a value from {LEAST_RESAMPLES} to "
                f"{MOST_RESAMPLES:,}."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the metrics to show."""
        return columns(self.metrics, k=self.k)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Every K to measure: k, and those of the metrics to show."""
        return tuple(sorted({*self.k, *filter(None, map(cut_of, self.metrics))}))

    def _check_alphas(self) -> None:
        for alpha in self.wise_ft:
            within("wise-ft", alpha, low=0, high=1)
        # Without duplicate names.
        alphas = {wise_ft_name(alpha): alpha for alpha in sorted(self.wise_ft, reverse=True)}
        object.__setattr__(self, "wise_ft", tuple(sorted(alphas.values())))
        if len(self.wise_ft) > _MOST_ALPHAS:
            raise UsageError(f"--wise-ft has {len(self.wise_ft):,} values; expected at most {_MOST_ALPHAS}.")
        if self.wise_ft and self.zero_shot:
            raise UsageError(
                "--zero-shot and --wise-ft contradict each other; --wise-ft needs a trained head to go towards."
            )
