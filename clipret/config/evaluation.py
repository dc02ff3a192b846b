"""Settings of stage 2: measuring a head."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import MOST_SEED, as_paths, at_least, one_of, within
from clipret.config.choices import DEVICES, PROTOCOLS, RUNS_DIR, SEED, SPLIT_PROTOCOLS, SPLITS, TRAIN_PRECISIONS
from clipret.config.metric_names import check_cuts, check_metrics, columns, cut_of
from clipret.errors import UsageError

# How metrics.json and the ranks name a head between CLIP's own and the trained one, before its alpha.
WISE_FT = "wise-ft "
_MOST_ALPHAS = 101
# Fewer flips say nothing of the ends of an interval, and more nothing further.
LEAST_RESAMPLES, MOST_RESAMPLES = 100, 1_000_000
MOST_BLOCK, MOST_TOP = 1_000_000, 10_000


def wise_ft_name(alpha: float) -> str:
    """The name of the head at that alpha: wise-ft 0.5."""
    return f"{WISE_FT}{alpha:.12g}"


@dataclass(frozen=True)
class EvalConfig:
    """Settings of stage 2, evaluation.

    cache      the features; None: the ones that the run was trained on
    head       a head file or a run's folder; None: the newest run below runs_dir, unless zero_shot
    zero_shot  evaluate CLIP's own projections alone
    runs_dir   where runs are kept
    wise_ft    also measure heads between CLIP's own (0) and the trained one (1), at these alphas
    protocol   names of protocols (protocols.py); none: the one that the data set is usually measured by
    split      the split that gives queries and gallery, for protocols split and split-equal-texts; None: test
    allow_leak measure also where the gallery holds images that the head was trained on
    k          the K of R@K, mAP@K and the others
    metrics    what the tables show: names with their K (R@1), families without (R: at every K), names that have none
               (MRR), rsum; metrics.json has all of them
    resamples  sign flips over images that the gain's intervals are made from; 0: no intervals at all
    per_query  file that every query's ranks and best items are written to, .parquet or .csv; None: nowhere
    top        best items of a query that per_query has
    out        where the metrics are written; None: metrics.json in the run's folder, if there is one
    block      images scored at once; decides memory, not results
    precision  of the embeddings that are ranked: fp32, or rounded to tf32 or bf16
    device     auto: CUDA where there is one
    seed       decides the flips
    """

    cache: Path | None = None
    head: Path | None = None
    zero_shot: bool = False
    wise_ft: tuple[float, ...] = ()
    runs_dir: Path = RUNS_DIR
    protocol: tuple[str, ...] = ()
    split: str | None = None
    allow_leak: bool = False
    k: tuple[int, ...] = (1, 5, 10)
    metrics: tuple[str, ...] = ("R", "mAP@10", "MRR", "median_rank", "rsum")
    resamples: int = 10_000
    per_query: Path | None = None
    top: int = 10
    out: Path | None = None
    block: int = 512
    precision: str = "fp32"
    device: str = "auto"
    seed: int = SEED

    def __post_init__(self):
        as_paths(self, "cache", "head", "runs_dir", "out", "per_query")
        object.__setattr__(self, "k", check_cuts(self.k))
        object.__setattr__(self, "metrics", check_metrics(self.metrics))
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if self.zero_shot and not self.cache:
            raise UsageError("--zero-shot needs a cache; give it with --cache FILE.")
        self._check_alphas()
        object.__setattr__(self, "protocol", tuple(dict.fromkeys(self.protocol)))
        for name in self.protocol:
            one_of("protocol", name, allowed=PROTOCOLS)
        if self.split is not None:
            one_of("split", self.split, allowed=SPLITS)
            if not set(self.protocol) <= set(SPLIT_PROTOCOLS):
                raise UsageError(
                    f"--split {self.split} and --protocol {','.join(self.protocol)} contradict each other; "
                    f"every protocol but {' and '.join(SPLIT_PROTOCOLS)} has images of its own."
                )
        at_least("block", self.block, low=1, at_most=MOST_BLOCK)
        at_least("top", self.top, low=1, at_most=MOST_TOP)
        if self.resamples != 0 and not LEAST_RESAMPLES <= self.resamples <= MOST_RESAMPLES:
            raise UsageError(
                f"--resamples is {self.resamples}; expected 0 for none, or a value from {LEAST_RESAMPLES} to "
                f"{MOST_RESAMPLES:,}."
            )
        at_least("seed", self.seed, low=0, at_most=MOST_SEED)
        one_of("precision", self.precision, allowed=TRAIN_PRECISIONS)
        one_of("device", self.device, allowed=DEVICES)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the metrics that are shown."""
        return columns(self.metrics, k=self.k)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Every K that is measured: k, and those of the metrics that are shown."""
        return tuple(sorted({*self.k, *filter(None, map(cut_of, self.metrics))}))

    def _check_alphas(self) -> None:
        for alpha in self.wise_ft:
            within("wise-ft", alpha, low=0, high=1)
        # Each name once.
        alphas = {wise_ft_name(alpha): alpha for alpha in sorted(self.wise_ft, reverse=True)}
        object.__setattr__(self, "wise_ft", tuple(sorted(alphas.values())))
        if len(self.wise_ft) > _MOST_ALPHAS:
            raise UsageError(f"--wise-ft has {len(self.wise_ft):,} values; expected at most {_MOST_ALPHAS}.")
        if self.wise_ft and self.zero_shot:
            raise UsageError(
                "--zero-shot and --wise-ft contradict each other; --wise-ft needs a trained head to go towards."
            )
