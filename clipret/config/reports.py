"""Settings of the report."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.checks import check_count
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

_MOST_RUNS = 20


@documented
@dataclass(frozen=True)
class ReportConfig:
    """Settings of a report on one run or several."""

    runs: tuple[Path, ...] = setting(help="Runs' folders.", positional=True)
    out: Path = setting(Path("report.html"), "Page to write.", option=("--out", "-o"))
    protocol: str | None = shared.one_protocol("the data set's")
    split: str | None = shared.measured_split()
    queries: int = setting(8, "Queries that each gallery shows.", at_least=1, at_most=50, swept=False)
    most_bytes: int = setting(
        5_000_000,
        "Pictures are left out beyond this size of the page.",
        at_least=100_000,
        at_most=200_000_000,
        swept=False,
    )
    root: Path | None = shared.images_root("Folder that holds the images; without it, file names stand for them.")
    allow_leak: bool = setting(False, "Measure also on images that the head was trained on.")
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if not self.runs:
            raise UsageError("name one run or more, such as: clipret report runs/0001-margin-linear")
        check_count("runs", len(self.runs), most=_MOST_RUNS)
