"""A download to be killed or interrupted: child_download.py ROOT ADDRESS ARCHIVES, the archives as JSON."""

import json
import sys
from pathlib import Path

from clipret.config import DownloadConfig
from clipret.datasets.downloads import coco
from clipret.datasets.downloads.published import Archive
from clipret.datasets.downloads.stage import download

if __name__ == "__main__":
    root, address, archives = sys.argv[1:]
    config = DownloadConfig("coco", root=Path(root), base_url=address)
    coco.COCO_2017 = [Archive(**fields) for fields in json.loads(archives)]
    try:
        result = download(config)
        sys.stdout.write(json.dumps(result))
    except KeyboardInterrupt:
        sys.stdout.write("interrupted")
