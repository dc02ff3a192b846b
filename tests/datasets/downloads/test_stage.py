import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from clipret.config import DownloadConfig
from clipret.datasets.downloads import coco, transfer
from clipret.datasets.downloads.coco import COCO_2017
from clipret.datasets.downloads.published import RECORD
from clipret.datasets.downloads.stage import download
from clipret.datasets.downloads.watch import LOCK
from clipret.errors import DatasetError, UsageError
from tests.helpers import HELPERS
from tests.helpers.serving import Fault, make_zip, publish, serving

CHILD = HELPERS / "child_download.py"
ANNOTATIONS = {"annotations/captions_val2017.json": b'{"images": []}', "annotations/captions_train2017.json": b"{}"}
VAL = {f"val2017/{number:012d}.jpg": random.Random(number).randbytes(4000) for number in range(20)}
TRAIN = {f"train2017/{number:012d}.jpg": random.Random(number).randbytes(4000) for number in range(100, 150)}
ALL = ANNOTATIONS | VAL | TRAIN
PATHS = ["/annotations/annotations_trainval2017.zip", "/zips/val2017.zip", "/zips/train2017.zip"]


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSES", (0, 0, 0))
    with serving() as site:
        yield site


@pytest.fixture
def archives(site):
    """COCO as published, with little in it."""
    return [
        publish(
            site,
            "annotations/annotations_trainval2017.zip",
            make_zip(ANNOTATIONS | {"annotations/instances_val2017.json": b"not wanted"}),
            members="annotations/captions_*.json",
            images=False,
        ),
        publish(site, "zips/val2017.zip", make_zip({"val2017/": b""} | VAL), members="val2017/*.jpg"),
        publish(site, "zips/train2017.zip", make_zip({"train2017/": b""} | TRAIN), members="train2017/*.jpg"),
    ]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "coco"


@pytest.fixture
def get(site, archives, root, monkeypatch):
    monkeypatch.setattr(coco, "COCO_2017", archives)

    def run(*, on_progress=lambda progress: None, **changes):
        config = DownloadConfig("coco", **({"root": root, "base_url": site.address} | changes))
        return download(config, on_progress=on_progress)

    return run


def below(root, *, hidden=False):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and (hidden or not path.name.startswith("."))
    }


def values_of(result, key):
    return [entry[key] for entry in result["files"]]


def test_a_data_set_is_fetched_unpacked_and_its_archives_deleted(get, site, root, archives):
    result = get()
    assert below(root) == ALL
    assert set(below(root, hidden=True)) - set(ALL) <= {RECORD, LOCK}
    assert sorted(path for path, _ in site.asked) == sorted(PATHS)
    assert result.pop("seconds") > 0
    assert result == {
        "dataset": "coco",
        "root": str(root),
        "files": [
            {"name": archive.name, "bytes": archive.size, "state": "fetched", "unpacked": unpacked}
            for archive, unpacked in zip(archives, (2, 20, 50), strict=True)
        ],
        "remarks": [],
        "instructions": [],
    }


def test_a_second_run_does_nothing_and_asks_nobody(get, site, root):
    get()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != LOCK}
    site.asked.clear()
    result = get()
    assert site.asked == []
    assert values_of(result, "state") == ["already there"] * 3
    assert values_of(result, "unpacked") == [0, 0, 0]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != LOCK} == before


def test_files_that_are_gone_are_fetched_again_and_told_of(get, site, root):
    get()
    site.asked.clear()
    (root / "val2017/000000000003.jpg").unlink()
    (root / "val2017/000000000004.jpg").write_bytes(b"half")
    result = get()
    assert below(root) == ALL
    assert [path for path, _ in site.asked] == ["/zips/val2017.zip"]
    assert values_of(result, "state") == ["already there", "fetched", "already there"]
    assert values_of(result, "unpacked") == [0, 2, 0]
    assert result["remarks"] == [
        "2 files of val2017.zip were gone or of another size, and were unpacked again: val2017/000000000003.jpg, "
        "val2017/000000000004.jpg"
    ]


def test_images_can_be_left_for_later(get, site, root):
    assert values_of(get(annotations_only=True), "name") == ["annotations_trainval2017.zip"]
    assert below(root) == ANNOTATIONS
    assert values_of(get(), "state") == ["already there", "fetched", "fetched"]
    assert below(root) == ALL


def test_archives_can_be_kept_and_save_fetching_again(get, site, root, archives):
    get(keep_archives=True)
    kept = {archive.name: site.files[f"/{archive.path}"] for archive in archives}
    assert below(root) == ALL | kept
    site.asked.clear()
    (root / "val2017/000000000003.jpg").unlink()
    assert values_of(get(), "unpacked") == [0, 1, 0]
    assert site.asked == []
    assert below(root) == ALL | kept, "what is kept once is the user's"


def test_an_archive_that_the_user_put_there_is_used_and_left_alone(get, site, root):
    root.mkdir()
    (root / "val2017.zip").write_bytes(site.files["/zips/val2017.zip"])
    result = get()
    assert values_of(result, "state") == ["fetched", "already there", "fetched"]
    assert "/zips/val2017.zip" not in [path for path, _ in site.asked]
    assert below(root) == ALL | {"val2017.zip": site.files["/zips/val2017.zip"]}


def test_a_part_of_an_earlier_run_is_resumed(get, site, root):
    root.mkdir()
    (root / "val2017.zip.part").write_bytes(site.files["/zips/val2017.zip"][:1234])
    assert values_of(get(), "state") == ["fetched", "resumed", "fetched"]
    assert site.ranges("/zips/val2017.zip") == ["bytes=1234-"]
    assert below(root) == ALL


@pytest.mark.parametrize("slashes", ["", "/", "//"])
@pytest.mark.parametrize("below_path", ["", "/mirror/coco"])
def test_a_mirror_has_the_same_paths_with_and_without_a_slash(get, site, root, slashes, below_path):
    site.files = {f"{below_path}{path}": content for path, content in site.files.items()}
    get(base_url=f"{site.address}{below_path}{slashes}", annotations_only=True)
    assert [path for path, _ in site.asked] == [f"{below_path}{PATHS[0]}"]


def test_several_files_are_fetched_at_once(get, site, root):
    """Each answer waits until another request is there too."""
    both = threading.Barrier(2, timeout=10)
    for path in PATHS[1:]:
        site.faults[path] = [Fault(before=both.wait)]
    get(jobs=3)
    assert not both.broken
    assert below(root) == ALL


def test_one_job_fetches_one_file_at_a_time(get, site, root):
    for path in PATHS:
        site.faults[path] = [Fault(delay=0.001)]
    get(jobs=1)
    assert site.most_active == 1
    assert below(root) == ALL


def test_a_failure_of_one_file_stops_the_others_and_keeps_their_parts(get, site, root, archives):
    def fail_when_the_other_is_on_its_way():
        while not (root / "train2017.zip.part").exists():
            time.sleep(0.001)

    site.faults[PATHS[1]] = [Fault(status=404, before=fail_when_the_other_is_on_its_way)]
    site.faults[PATHS[2]] = [Fault(stall=50_000)]
    started = time.monotonic()
    with pytest.raises(DatasetError) as caught:
        get()
    assert time.monotonic() - started < 5
    assert str(caught.value) == (
        f"cannot download {site.address}/zips/val2017.zip: the server answers 404 Not Found. Check the network, or "
        f"name another server that has the same files with --base-url."
    )
    assert not (root / "train2017.zip").exists()
    assert site.files[PATHS[2]].startswith((root / "train2017.zip.part").read_bytes())
    result = get()
    assert below(root) == ALL
    assert values_of(result, "state")[1] == "fetched"


def test_every_report_comes_alone_and_every_phase_ends(get, archives):
    inside, most, last = [], [0], {}

    def watch(progress):
        inside.append(progress)
        most[0] = max(most[0], len(inside))
        last[progress.phase] = (progress.done, progress.total)
        time.sleep(0.001)
        inside.pop()

    get(on_progress=watch)
    assert most == [1]
    unpacked = (2, 20, 50)
    assert last == {
        **{f"{what} {archive.name}": (archive.size,) * 2 for what in ("download", "check") for archive in archives},
        **{f"unpack {archive.name}": (count,) * 2 for archive, count in zip(archives, unpacked, strict=True)},
    }


@pytest.mark.parametrize(
    ("name", "content"), [("../../x", b"evil"), ("/abs", b"evil"), ("val2017\\..\\x.jpg", b"evil"), ("C:x", b"evil")]
)
def test_an_archive_that_would_write_elsewhere_is_refused(get, site, root, archives, name, content):
    archives[1] = publish(site, "zips/val2017.zip", make_zip(VAL | {name: content}), members="val2017/*.jpg")
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"{root}/val2017.zip is refused: its entry {name!r} would leave the folder; nothing was unpacked. Delete it "
        f"and download it from elsewhere."
    )
    assert not any(path.startswith("val2017/") for path in below(root))
    assert below(root.parent).keys() <= {f"coco/{path}" for path in below(root)}


def test_a_published_file_that_is_no_zip_file_is_one_line(get, site, root, archives):
    archives[1] = publish(site, "zips/val2017.zip", site.files[PATHS[1]][:-100], members="val2017/*.jpg")
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"{root}/val2017.zip is damaged: File is not a zip file. What was unpacked from it is whole; delete the "
        f"archive and download it again."
    )
    assert not any(path.startswith("val2017/") for path in below(root))


def usage(free):
    return lambda path: type("Usage", (), {"free": free})()


def test_too_little_room_is_told_before_anything_is_fetched(get, site, root, archives, monkeypatch):
    archives[2] = dataclasses.replace(archives[2], unpacked=30_000_000_000, size=20_000_000_000)
    monkeypatch.setattr("shutil.disk_usage", usage(41_500_000_000))
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"{root} has 41.50 GB free and 50.00 GB are needed, 20.00 to fetch and 30.00 to unpack; make room, or name "
        f"another folder with --root."
    )
    assert site.asked == []


def test_what_is_there_already_needs_no_room(get, site, root, archives, monkeypatch):
    root.mkdir()
    (root / "train2017.zip.part").write_bytes(site.files[PATHS[2]][:-10])
    (root / "val2017.zip").write_bytes(site.files[PATHS[1]])
    needed = archives[0].size + 10 + sum(map(len, VAL.values()))
    seen = []
    monkeypatch.setattr(
        "clipret.datasets.downloads.published.require_space", lambda root, **needs: seen.append(sum(needs.values()))
    )
    get()
    assert seen == [needed]


def test_a_finished_download_needs_no_room(get, root, monkeypatch):
    get()
    monkeypatch.setattr("shutil.disk_usage", usage(0))
    assert values_of(get(), "state") == ["already there"] * 3


@pytest.mark.parametrize("place", ["", "/below"])
def test_a_file_in_place_of_the_folder_is_one_line(get, root, place):
    root.write_bytes(b"a file")
    with pytest.raises(DatasetError) as caught:
        get(root=f"{root}{place}")
    assert str(caught.value) == (
        f"cannot write {root}{place}: a part of this path is a file and not a folder. Downloaded files are kept; once "
        f"that is fixed, the same command continues."
    )


def test_a_folder_that_refuses_is_one_line(get, root, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"cannot write {root}: Permission denied. Downloaded files are kept; once that is fixed, the same command "
        f"continues."
    )


def test_a_full_disk_is_one_line(get, site, root):
    root.mkdir()
    (root / "val2017.zip.part").symlink_to("/dev/full")
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"cannot write {root}/val2017.zip.part: No space left on device. Downloaded files are kept; once that is "
        f"fixed, the same command continues."
    )


def test_a_second_process_is_turned_away(get, site, root):
    root.mkdir()
    with FileLock(root / LOCK), pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == (
        f"another process is downloading into {root}; wait for it, or name another folder with --root."
    )
    assert site.asked == []
    get()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff", b"{"])
def test_a_spoiled_record_is_one_line(get, root, content):
    root.mkdir()
    (root / RECORD).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        get()
    assert str(caught.value) == f"{root}/{RECORD} is not a record of downloads; delete it and run the command again."


@pytest.mark.parametrize("entry", [1, {}, {"md5": "other"}, {"files": []}])
def test_a_record_of_something_else_counts_for_nothing(get, root, archives, entry):
    root.mkdir()
    entry = entry | {"md5": archives[0].md5} if entry == {"files": []} else entry
    (root / RECORD).write_text(json.dumps({archives[0].name: entry}))
    assert values_of(get(), "state") == ["fetched"] * 3
    assert below(root) == ALL


def start(root, site, archives):
    described = json.dumps([dataclasses.asdict(archive) for archive in archives])
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(root), site.address, described],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"NO_PROXY": "127.0.0.1", "PYTHONPATH": ":".join(sys.path)},
    )


def until(condition, child):
    deadline = time.monotonic() + 60
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def finish(child):
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return json.loads(out)


def test_a_killed_transfer_goes_on_in_a_new_process(site, root, archives):
    part, content = root / "train2017.zip.part", site.files[PATHS[2]]
    site.faults[PATHS[2]] = [Fault(delay=0.02)]
    child = start(root, site, archives)
    until(lambda: part.exists() and part.stat().st_size > 50_000, child)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    have = part.stat().st_size
    assert part.read_bytes() == content[:have]
    assert not (root / "train2017.zip").exists()
    assert not (root / "train2017").exists()
    result = finish(start(root, site, archives))
    assert values_of(result, "state")[2] == "resumed"
    assert site.ranges(PATHS[2]) == [None, f"bytes={have}-"]
    assert below(root) == ALL


@pytest.mark.ci
def test_a_killed_unpacking_goes_on_in_a_new_process_and_no_name_is_ever_given_to_half_a_file(site, root):
    images = {f"val2017/{number:012d}.jpg": random.Random(number).randbytes(15_000) for number in range(2000)}
    archives = [publish(site, "zips/val2017.zip", make_zip(images), members="val2017/*.jpg")]
    folder = root / "val2017"
    child = start(root, site, archives)
    until(lambda: folder.exists() and len(list(folder.iterdir())) > 100, child)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    there = {name: content for name, content in below(root).items() if name.endswith(".jpg")}
    assert 100 <= len(there) < len(images)
    assert there.items() <= images.items()
    result = finish(start(root, site, archives))
    assert result["files"] == [
        {
            "name": "val2017.zip",
            "bytes": archives[0].size,
            "state": "already there",
            "unpacked": len(images) - len(there),
        }
    ]
    assert below(root) == images, "and the archive that the first process fetched is deleted"
    assert len(site.asked) == 1


@pytest.mark.parametrize("fault", [Fault(delay=0.02), Fault(stall=60_000)])
def test_an_interrupt_stops_soon_keeps_the_parts_and_gets_out(site, root, archives, fault):
    """Also while the server is silent, and no byte wakes the worker."""
    part, content = root / "train2017.zip.part", site.files[PATHS[2]]
    site.faults[PATHS[2]] = [fault]
    child = start(root, site, archives)
    until(lambda: part.exists() and part.stat().st_size >= 60_000, child)
    time.sleep(0.1)
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert time.monotonic() - started < 5
    assert (out, err) == ("interrupted", "")
    kept = part.read_bytes()
    assert content.startswith(kept)
    assert not (root / "train2017.zip").exists()
    assert values_of(finish(start(root, site, archives)), "state")[2] == "resumed"
    assert below(root) == ALL


def test_the_published_files_are_those_of_coco_2017():
    assert [(archive.path, archive.size, archive.md5) for archive in COCO_2017] == [
        ("annotations/annotations_trainval2017.zip", 252907541, "f4bbac642086de4f52a3fdda2de5fa2c"),
        ("zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80"),
        ("zips/train2017.zip", 19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ]
    assert [archive.images for archive in COCO_2017] == [False, True, True]
    selected = [archive.selection.target(f"{folder}/x.jpg") for archive in COCO_2017 for folder in ("val2017", "z")]
    assert selected == [None, None, "val2017/x.jpg", None, None, None]


def test_a_mirror_of_flickr30k_is_refused_because_none_of_it_is_fetched():
    with pytest.raises(UsageError) as caught:
        download(DownloadConfig("flickr30k", base_url="http://mirror.example"))
    assert str(caught.value) == "--base-url does not apply to flickr30k: clipret downloads none of its files."
