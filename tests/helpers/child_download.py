"""A download to be killed or interrupted: child_download.py ROOT ADDRESS ARCHIVES, the archives as JSON."""

import json
import sys
from pathlib import Path

from clipret.config import DownloadConfig
from clipret.datasets.downloads.stage import Archive, download

if __name__ == "__main__":
    root, address, archives = sys.argv[1:]
    config = DownloadConfig("coco", root=Path(root), base_url=address)
    try:
        result = download(config, archives=[Archive(**each) for each in json.loads(archives)])
        sys.stdout.write(json.dumps(result))
    except KeyboardInterrupt:
        sys.stdout.write("interrupted")
