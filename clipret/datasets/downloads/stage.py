"""Getting a data set's files onto this disk: COCO's from its server, Flickr30k's with the help of the user."""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from clipret.config import DownloadConfig
from clipret.datasets.downloads.archives import Selection, lacking_bytes, unpack
from clipret.datasets.downloads.flickr30k import gather_flickr30k
from clipret.datasets.downloads.transfer import Remote, fetch, origin_of, part_of, size_of
from clipret.datasets.downloads.watch import Watch, alone, explained, require_space
from clipret.datasets.parsing import listed, read_json
from clipret.errors import DatasetError
from clipret.progress import ProgressCallback, silent

COCO_ADDRESS = "http://images.cocodataset.org"
RECORD = ".clipret-download.json"


@dataclass(frozen=True)
class Archive:
    """A zip file that a data set is published in.

    path      below the address of the server
    size, md5  what the file must have
    members   pattern of the names of the files in it that are unpacked
    unpacked  bytes of those files, about
    images    whether it holds images
    """

    path: str
    size: int
    md5: str
    members: str
    unpacked: int
    images: bool = True

    @property
    def name(self) -> str:
        """Its file's name."""
        return self.path.rpartition("/")[2]

    @property
    def selection(self) -> Selection:
        """The files in it that are unpacked."""
        return Selection(self.members)


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


def download(
    config: DownloadConfig, *, archives: Sequence[Archive] = COCO_2017, on_progress: ProgressCallback = silent
) -> dict:
    """Fetch and unpack a data set's files into config.folder, or say what the user has to fetch.

    COCO: each archive is fetched, from where an earlier run stopped, checked against its size and MD5, unpacked and,
    unless config.keep_archives, deleted; one that lay there before is used and left alone. Work that RECORD calls
    done, and whose files are there with their sizes, is not done again. After Ctrl-C, a kill or an error the same
    command goes on.

    Flickr30k: see gather_flickr30k.

    archives     COCO's, or others in their place
    on_progress  called from several threads, one call at a time; phases "download FILE" and "check FILE" in bytes and
                 "unpack FILE" in files, those of several files mixed

    Returns dataset, root, files (a list of name, bytes, state: "fetched", "resumed" or "already there", and unpacked:
    the files written now), remarks, instructions (lines for the user) and seconds. Raises DatasetError when the
    network, a server, the disk or an archive is not as it must be, or another process downloads into the folder.
    """
    started = time.perf_counter()
    watch = Watch(on_progress)
    with explained(config.folder):
        if config.dataset == "flickr30k":
            result = gather_flickr30k(config, watch=watch)
        else:
            result = _download_archives(config, archives, watch=watch)
    return {
        "dataset": config.dataset,
        "root": str(config.folder),
        **result,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _download_archives(config: DownloadConfig, archives: Sequence[Archive], *, watch: Watch) -> dict:
    root = config.folder
    wanted = [archive for archive in archives if not (config.annotations_only and archive.images)]
    root.mkdir(parents=True, exist_ok=True)
    with alone(root):
        record = _Record(root)
        lacking = {archive.name: record.lacking(archive) for archive in wanted}
        todo = [archive for archive in wanted if lacking[archive.name] != []]
        _require_space(root, todo)
        done = _in_parallel(config, todo, record=record, watch=watch)
        for archive in wanted:
            if not config.keep_archives:
                _delete(root / archive.name)
    finished = {archive.name: _told(archive, "already there") for archive in wanted}
    remarks = [
        f"{len(names):,} files of {name} were gone or of another size, and were unpacked again: {listed(names)}"
        for name, names in lacking.items()
        if names
    ]
    return {"files": list((finished | done).values()), "remarks": remarks, "instructions": []}


def _require_space(root: Path, archives: Sequence[Archive]) -> None:
    to_fetch, to_unpack = 0, 0
    for archive in archives:
        path = root / archive.name
        if path.exists():
            # One that is damaged is told of when its checksum is taken.
            with contextlib.suppress(DatasetError):
                to_unpack += lacking_bytes(path, root, selection=archive.selection)
        else:
            to_fetch += max(archive.size - size_of(part_of(path)), 0)
            to_unpack += archive.unpacked
    require_space(root, fetch=to_fetch, unpack=to_unpack)


def _in_parallel(config: DownloadConfig, archives: Sequence[Archive], *, record: "_Record", watch: Watch) -> dict:
    """Obtain the archives, config.jobs at once; name -> what to tell. The first failure, or Ctrl-C, stops them all."""
    if not archives:
        return {}
    with ThreadPoolExecutor(max_workers=min(config.jobs, len(archives))) as pool:
        try:
            futures = {pool.submit(_obtain, config, archive, record=record, watch=watch) for archive in archives}
            told = [future.result() for future in as_completed(futures)]
        except BaseException:
            watch.stop()
            raise
    return {each["name"]: each for each in told}


def _obtain(config: DownloadConfig, archive: Archive, *, record: "_Record", watch: Watch) -> dict:
    path = config.folder / archive.name
    address = f"{(config.base_url or COCO_ADDRESS).rstrip('/')}/{archive.path}"
    state = fetch(Remote(address, size=archive.size, md5=archive.md5), path, watch=watch)
    files, written = unpack(path, config.folder, selection=archive.selection, watch=watch)
    record.add(archive, files)
    if config.keep_archives:
        _keep(path)
    else:
        _delete(path)
    return _told(archive, state, unpacked=written)


def _told(archive: Archive, state: str, *, unpacked: int = 0) -> dict:
    return {"name": archive.name, "bytes": archive.size, "state": state, "unpacked": unpacked}


def _delete(path: Path) -> None:
    """Delete an archive that we fetched. One without a note of its origin is the user's."""
    if origin_of(path).exists():
        with explained(path):
            path.unlink(missing_ok=True)
            origin_of(path).unlink(missing_ok=True)


def _keep(path: Path) -> None:
    with explained(path):
        origin_of(path).unlink(missing_ok=True)


class _Record:
    """What was unpacked below a folder, kept in its file RECORD: archive -> its MD5, and its files with their sizes."""

    def __init__(self, root: Path):
        self._root = root
        self._path = root / RECORD
        self._lock = threading.Lock()
        self._content = {}
        if self._path.exists():
            with contextlib.suppress(DatasetError):
                self._content = read_json(self._path)
            if not isinstance(self._content, dict) or not self._content:
                raise DatasetError(f"{self._path} is not a record of downloads; delete it and run the command again.")

    def lacking(self, archive: Archive) -> list[str] | None:
        """The archive's files that are gone or of another size; None when it was never unpacked."""
        entry = self._content.get(archive.name)
        if not isinstance(entry, dict) or entry.get("md5") != archive.md5 or not isinstance(entry.get("files"), dict):
            return None
        return [name for name, size in entry["files"].items() if size_of(self._root / name) != size]

    def add(self, archive: Archive, files: dict[str, int]) -> None:
        """Write down that the archive's files are there."""
        unfinished = self._path.with_name(f"{self._path.name}.part")
        with self._lock, explained(self._path):
            self._content[archive.name] = {"md5": archive.md5, "files": files}
            unfinished.write_text(json.dumps(self._content), encoding="utf-8")
            unfinished.replace(self._path)
