"""Settings of stage 2: comparison with published results."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError


@documented
@dataclass(frozen=True)
class ReproduceConfig:
    """Settings of comparing the results on a cache with published ones."""

    cache: Path | None = setting(None, "Features to measure.")
    head: Path | None = setting(
        None, "A run's folder: compare fine-tuned figures as well.", shown="CLIP's own head alone"
    )
    tolerance: float = setting(0.5, "Percentage points that a figure may be from the published one.", between=(0, 100))
    out: Path | None = setting(None, "File to write the comparison to, as JSON.", shown="nowhere")
    block: int = shared.block()
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if self.cache is None:
            raise UsageError(
                "reproduce needs a cache; give it with --cache FILE, or see what was published and the cache that each "
                "row needs with --list."
            )
