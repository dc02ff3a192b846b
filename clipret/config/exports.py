"""Settings of exporting a trained head."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.settings import check, documented, setting


@documented
@dataclass(frozen=True)
class ExportConfig:
    """Settings of writing a trained head in the form of another library."""

    run: Path = setting(help="A run's folder or a head.safetensors.", positional=True, utf8=True)
    to: str = setting(help="The form to write.", swept=False)
    out: Path = setting(help="Folder to write.", option=("--out", "-o"), utf8=True)
    cache: Path | None = setting(None, "Cache that the head belongs to.", shown="the run's", utf8=True)
    model: str | None = shared.encoder_place()
    root: Path | None = shared.images_root("Folder that holds the images, some of which are compared.")
    download_root: Path | None = shared.download_root()

    def __post_init__(self):
        check(self)
