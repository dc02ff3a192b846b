"""Archives that a data set is published in: downloaded, checked, unpacked, and only once."""

import contextlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from clipret.config import DownloadConfig
from clipret.datasets.downloads.archives import Selection, lacking_bytes, unpack
from clipret.datasets.downloads.transfer import Remote, fetch, origin_of, part_of, size_of
from clipret.datasets.downloads.watch import Watch, alone, explained, require_space
from clipret.datasets.parsing import listed, read_json
from clipret.errors import DatasetError

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


def download_archives(config: DownloadConfig, archives: Sequence[Archive], *, address: str, watch: Watch) -> dict:
    """Download and unpack archives into config.folder.

    Each is fetched, from where an earlier run stopped, checked against its size and MD5, unpacked and, unless
    config.keep_archives, deleted; one that was there before is used and left alone. Work that RECORD lists as done, and
    whose files are there with their sizes, is not repeated. After Ctrl-C, a kill or an error the same call goes on.

    address  of the server, unless config.base_url names another one

    Returns files, remarks and instructions, as `download` does. Raises DatasetError when the network, a server, the
    disk or an archive is not as it must be, or another process downloads into the folder.
    """
    root = config.folder
    wanted = [archive for archive in archives if not (config.annotations_only and archive.images)]
    root.mkdir(parents=True, exist_ok=True)
    with alone(root):
        record = _Record(root)
        lacking = {archive.name: record.lacking(archive) for archive in wanted}
        todo = [archive for archive in wanted if lacking[archive.name] != []]
        _require_space(root, todo)
        done = _in_parallel(config, todo, address=address, record=record, watch=watch)
        for archive in wanted:
            if not config.keep_archives:
                _delete(root / archive.name)
    finished = {archive.name: _entry(archive, "already there") for archive in wanted}
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
            # A damaged archive is reported when its checksum is taken.
            with contextlib.suppress(DatasetError):
                to_unpack += lacking_bytes(path, root, selection=archive.selection)
        else:
            to_fetch += max(archive.size - size_of(part_of(path)), 0)
            to_unpack += archive.unpacked
    require_space(root, fetch=to_fetch, unpack=to_unpack)


def _in_parallel(
    config: DownloadConfig, archives: Sequence[Archive], *, address: str, record: "_Record", watch: Watch
) -> dict[str, dict]:
    """Obtain the archives, config.jobs at once; name -> its entry. The first failure, or Ctrl-C, stops them all."""
    if not archives:
        return {}
    with ThreadPoolExecutor(max_workers=min(config.jobs, len(archives))) as pool:
        try:
            futures = {
                pool.submit(_obtain, config, archive, address=address, record=record, watch=watch)
                for archive in archives
            }
            entries = [future.result() for future in as_completed(futures)]
        except BaseException:
            watch.stop()
            raise
    return {entry["name"]: entry for entry in entries}


def _obtain(config: DownloadConfig, archive: Archive, *, address: str, record: "_Record", watch: Watch) -> dict:
    path = config.folder / archive.name
    url = f"{(config.base_url or address).rstrip('/')}/{archive.path}"
    state = fetch(Remote(url, size=archive.size, md5=archive.md5), path, watch=watch)
    files, written = unpack(path, config.folder, selection=archive.selection, watch=watch)
    record.add(archive, files)
    if config.keep_archives:
        _keep(path)
    else:
        _delete(path)
    return _entry(archive, state, unpacked=written)


def _entry(archive: Archive, state: str, *, unpacked: int = 0) -> dict:
    """What the result says of an archive."""
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
