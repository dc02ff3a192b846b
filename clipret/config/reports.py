"""Settings of the report."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.checks import check_count
from clipret.config.choices import MAPS
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

_MOST_RUNS = 20


@documented
@dataclass(frozen=True)
class ReportConfig:
    """Settings of a report on one run or several."""

    runs: tuple[Path, ...] = setting(help="Runs' folders, or a sweep's.", positional=True)
    out: Path = setting(Path("report.html"), "Page to write.", option=("--out", "-o"))
    protocol: str | None = shared.one_protocol("the data set's")
    split: str | None = shared.measured_split()
    figures: Path | None = setting(
        None, "Also write each drawing as SVG and PDF, and the tables as LaTeX, to this folder.", metavar="FOLDER"
    )
    queries: int = setting(8, "Queries that each gallery shows.", at_least=1, at_most=50, swept=False)
    most_bytes: int = shared.page_bytes()
    root: Path | None = shared.images_root("Folder that holds the images; without it, file names stand for them.")
    allow_leak: bool = setting(False, "Measure also on images that the head was trained on.")
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if not self.runs:
            raise UsageError("name one run or more, such as: clipret report runs/0001-margin-linear")
        check_count("runs", len(self.runs), most=_MOST_RUNS)


@documented
@dataclass(frozen=True)
class LookConfig:
    """Settings of a look at the data of a cache."""

    cache: Path = setting(help="A finished cache.", positional=True)
    out: Path = setting(Path("look.html"), "Page to write.", option=("--out", "-o"))
    leaks: Path | None = setting(None, "Also write the pairs of different splits: FILE.csv.", metavar="FILE")
    least: float = setting(
        0.9, "Cosine of two images' features from which on they may be near copies.", between=(0, 1), swept=False
    )
    ratio: float = setting(
        0.5,
        "How far the nearest may be of how far the next one is, for a near copy or caption.",
        between=(0, 1),
        swept=False,
    )
    least_caption: float = setting(
        0.95, "Cosine of two captions' features from which on they may be nearly alike.", between=(0, 1), swept=False
    )
    map: str = setting(
        "pca", "Map of the images: pca, or umap, which puts together what is alike.", choices=MAPS, swept=False
    )
    listed: int = setting(12, "Examples that each list has.", at_least=1, at_most=1000, swept=False)
    most_bytes: int = shared.page_bytes()
    root: Path | None = shared.images_root("Folder that holds the images; without it, file names stand for them.")
    device: str = shared.device()
    seed: int = shared.seed("Decides which images are on the map.")

    def __post_init__(self):
        check(self)
