"""Settings of the list of encoders."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.comparison import FORMATS
from clipret.config.settings import check, documented, setting


@documented
@dataclass(frozen=True)
class ModelsConfig:
    """Settings of the list of encoders."""

    words: tuple[str, ...] = setting((), "Only models whose name has all of these words in it.", positional=True)
    family: str | None = setting(None, "Only models of this family.", shown="all")
    cached: bool = setting(False, "Only models whose weights are on this machine.")
    format: str = setting("table", f"{', '.join(FORMATS)}.", choices=FORMATS)
    download_root: Path | None = shared.download_root()

    def __post_init__(self):
        check(self)
