"""Settings of stage 2: comparing with what others have published."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import as_paths, at_least, one_of, within
from clipret.config.choices import DEVICES
from clipret.config.evaluation import MOST_BLOCK, EvalConfig
from clipret.errors import UsageError


@dataclass(frozen=True)
class ReproduceConfig:
    """Settings of comparing a cache's figures with published ones.

    cache      the features
    head       a run's folder, or its head file: compare fine-tuned figures as well; None: CLIP's own alone
    tolerance  largest difference, in percentage points, that a figure passes with
    out        where the comparison is written as JSON; None: nowhere
    block      images scored at once; decides memory, not results
    device     auto: CUDA where there is one
    """

    cache: Path | None = None
    head: Path | None = None
    tolerance: float = 0.5
    out: Path | None = None
    block: int = EvalConfig.block
    device: str = EvalConfig.device

    def __post_init__(self):
        as_paths(self, "cache", "head", "out")
        if self.cache is None:
            raise UsageError(
                "reproduce needs a cache; give it with --cache FILE, or see what was published and the cache that each "
                "row needs with --list."
            )
        within("tolerance", self.tolerance, low=0, high=100)
        at_least("block", self.block, low=1, at_most=MOST_BLOCK)
        one_of("device", self.device, allowed=DEVICES)
