"""Settings of the analysis of errors."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import as_paths, at_least
from clipret.config.choices import RUNS_DIR, SEED
from clipret.config.evaluation import MOST_TOP, EvalConfig


@dataclass(frozen=True)
class FailuresConfig:
    """Settings of stage 2, errors: which queries fail, and what comes up instead.

    cache      the features; None: the ones that the run was trained on
    head       a head file or a run's folder; None: the newest run below runs_dir, unless zero_shot
    zero_shot  look at CLIP's own projections alone; there is then nothing to compare with
    runs_dir   where runs are kept
    protocol   one name of a protocol (protocols.py); None: the one that the data set is usually measured by
    split      the split that gives queries and gallery, for protocols split and split-equal-texts; None: test
    allow_leak look also where the gallery holds images that the head was trained on
    queries    how many queries, or hubs, each list has at most
    top        the K of the K-occurrence that makes an item a hub
    out        where the result is written; None: failures.json in the run's folder, if there is one
    block      images scored at once; decides memory, not results
    precision  of the embeddings that are ranked: fp32, or rounded to tf32 or bf16
    device     auto: CUDA where there is one
    seed       nothing is drawn at random here; accepted as everywhere
    """

    cache: Path | None = None
    head: Path | None = None
    zero_shot: bool = False
    runs_dir: Path = RUNS_DIR
    protocol: str | None = None
    split: str | None = None
    allow_leak: bool = False
    queries: int = 10
    top: int = 10
    out: Path | None = None
    block: int = EvalConfig.block
    precision: str = EvalConfig.precision
    device: str = "auto"
    seed: int = SEED

    def __post_init__(self):
        as_paths(self, "cache", "head", "runs_dir", "out")
        at_least("queries", self.queries, low=1, at_most=1_000_000)
        at_least("top", self.top, low=1, at_most=MOST_TOP)
        # What is to be measured is refused in eval's own words.
        EvalConfig(
            cache=self.cache,
            head=self.head,
            zero_shot=self.zero_shot,
            protocol=(self.protocol,) if self.protocol is not None else (),
            split=self.split,
            block=self.block,
            precision=self.precision,
            device=self.device,
            seed=self.seed,
        )
