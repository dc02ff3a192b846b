"""COCO 2017, from its own server: three archives."""

from clipret.config import DownloadConfig
from clipret.datasets.downloads.published import Archive, download_archives
from clipret.datasets.downloads.watch import Watch

ADDRESS = "http://images.cocodataset.org"
COCO_2017 = (
    Archive(
        path="annotations/annotations_trainval2017.zip",
        size=252_907_541,
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
        members="annotations/captions_*.json",
        unpacked=100_000_000,
        images=False,
    ),
    # A little more than the zip: JPEGs shrink hardly, and each takes whole blocks of the disk.
    Archive(
        path="zips/val2017.zip",
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
        members="val2017/*.jpg",
        unpacked=835_000_000,
    ),
    Archive(
        path="zips/train2017.zip",
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        members="train2017/*.jpg",
        unpacked=19_700_000_000,
    ),
)


def download_coco(config: DownloadConfig, *, watch: Watch) -> dict:
    """Download COCO 2017 into config.folder; see download_archives."""
    return download_archives(config, COCO_2017, address=ADDRESS, watch=watch)
