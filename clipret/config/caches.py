"""Settings of commands on existing caches: verify and merge."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError


@documented
@dataclass(frozen=True)
class VerifyConfig:
    """Settings of verifying a cache."""

    cache: Path = setting(help="A cache, finished or not.", positional=True)
    sample: int = setting(
        0, "Images, and captions, to encode again and compare; 0: none.", at_least=0, at_most=1_000_000_000
    )
    model: str | None = setting(None, "Model to encode them with.", shown="the one the cache names")
    root: Path | None = setting(None, "Folder that holds the images.", shown="where they were")
    device: str = shared.device()
    download_root: Path | None = shared.download_root()
    seed: int = shared.seed("Decides which rows are sampled.")

    def __post_init__(self):
        check(self)
        for option, value in (("model", self.model), ("root", self.root)):
            if value is not None and not self.sample:
                raise UsageError(f"--{option} is only of use to --sample; give --sample N, or leave it out.")


@documented
@dataclass(frozen=True)
class MergeConfig:
    """Settings of merging caches of different images."""

    caches: tuple[Path, ...] = setting(
        help="Caches of different images, in the order of their rows.", positional=True, utf8=True
    )
    out: Path = setting(help="Cache to write.", option=("--out", "-o"), utf8=True)

    def __post_init__(self):
        check(self)
        if len(self.caches) < 2:
            raise UsageError(f"merge is given {len(self.caches)} cache; expected two or more.")
