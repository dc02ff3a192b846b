"""Settings of what is done with caches that are there: verifying one, joining several."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import MOST_SEED, as_paths, at_least, check_utf8, one_of, within
from clipret.config.choices import DEVICES, SEED
from clipret.errors import UsageError


@dataclass(frozen=True)
class VerifyConfig:
    """Settings of verifying a cache.

    cache          the cache to reread
    sample         images, and captions, to encode again and compare; 0: none
    model          the model to encode them with; None: the one the cache names
    root           folder that holds the images; None: the one the cache names
    device         auto: CUDA where there is one
    download_root  where OpenAI's weights are kept; None: ~/.cache/clip
    seed           decides which rows are sampled
    """

    cache: Path
    sample: int = 0
    model: str | None = None
    root: Path | None = None
    device: str = "auto"
    download_root: Path | None = None
    seed: int = SEED

    def __post_init__(self):
        as_paths(self, "cache", "root", "download_root")
        at_least("sample", self.sample, low=0, at_most=1_000_000_000)
        one_of("device", self.device, allowed=DEVICES)
        within("seed", self.seed, low=0, high=MOST_SEED)
        for option, value in (("model", self.model), ("root", self.root)):
            if value is not None and not self.sample:
                raise UsageError(f"--{option} is only of use to --sample; give --sample N, or leave it out.")


@dataclass(frozen=True)
class MergeConfig:
    """Settings of joining caches of different images.

    caches  the caches, in the order that their rows will have
    out     the cache to write
    """

    caches: tuple[Path, ...]
    out: Path

    def __post_init__(self):
        as_paths(self, "out")
        object.__setattr__(self, "caches", tuple(Path(path) for path in self.caches))
        check_utf8(self, "out", "caches")
        if len(self.caches) < 2:
            raise UsageError(f"merge is given {len(self.caches)} cache; expected two or more.")
