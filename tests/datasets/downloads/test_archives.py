import io
import random
import struct
import tarfile
import zipfile

import pytest

from clipret.datasets.downloads import archives
from clipret.datasets.downloads.archives import Selection, lacking_bytes, unpack
from clipret.datasets.downloads.watch import StoppedError, Watch
from clipret.errors import DatasetError
from clipret.machine.progress import silent

FILES = {f"val/{number}.jpg": random.Random(number).randbytes(2000 + number) for number in range(5)}
IMAGES = Selection("val/*.jpg")


def write_zip(path, files, **changes):
    """A zip file; changes are attributes of the entry of the last file, which come after it was written."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
        for name, value in changes.items():
            setattr(archive.infolist()[-1], name, value)
    return path


def write_tar(path, files, *, mode="w:gz", **changes):
    with tarfile.open(path, mode) as archive:
        for place, (name, content) in enumerate(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items() if place == len(files) - 1 else ():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def below(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def unpacked(path, root, selection=IMAGES):
    return unpack(path, root, selection=selection, watch=Watch(silent))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_zip(folder / "a.zip", FILES),
        lambda folder: write_tar(folder / "a.tar", FILES, mode="w"),
        lambda folder: write_tar(folder / "a.tar.gz", FILES),
    ],
)
def test_every_file_is_unpacked_and_a_second_time_none(tmp_path, root, write):
    path, sizes = write(tmp_path), {name: len(content) for name, content in FILES.items()}
    assert lacking_bytes(path, root, selection=IMAGES) == sum(sizes.values())
    assert unpacked(path, root) == (sizes, 5)
    assert below(root) == FILES
    assert lacking_bytes(path, root, selection=IMAGES) == 0
    assert unpacked(path, root) == (sizes, 0)


def test_only_the_selected_files_are_unpacked(tmp_path, root):
    files = {"annotations/": b"", "annotations/captions_val.json": b"[]", "annotations/instances_val.json": b"[1]"}
    path = write_zip(tmp_path / "a.zip", files)
    assert unpacked(path, root, Selection("annotations/captions_*.json"))[1] == 1
    assert below(root) == {"annotations/captions_val.json": b"[]"}


def test_a_selection_can_say_where_files_go(tmp_path, root):
    path = write_tar(tmp_path / "a.tar.gz", {"deep/down/7.jpg": b"7", "deep/._7.jpg": b"no image"})
    assert unpacked(path, root, Selection("[0-9]*.jpg", into="images")) == ({"images/7.jpg": 1}, 1)
    assert below(root) == {"images/7.jpg": b"7"}


def test_a_file_of_another_size_or_content_is_written_anew(tmp_path, root):
    path = write_zip(tmp_path / "a.zip", FILES)
    unpacked(path, root)
    (root / "val/1.jpg").write_bytes(b"half")
    (root / "val/2.jpg").write_bytes(bytes(len(FILES["val/2.jpg"])))
    (root / "val/3.jpg").unlink()
    assert unpacked(path, root)[1] == 3
    assert below(root) == FILES


def test_what_a_kill_left_half_written_is_overwritten(tmp_path, root):
    (root / "val").mkdir()
    (root / "val/0.jpg.part").write_bytes(b"half")
    unpacked(write_zip(tmp_path / "a.zip", FILES), root)
    assert below(root) == FILES


LEAVING = ["../x", "val/../../x", "/abs", "//server/share/x", "C:/x", "C:x", "val\\..\\..\\x", "..\\x", "val/a:stream"]


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_with_an_entry_that_leaves_the_folder_is_refused_as_a_whole(tmp_path, root, write, name):
    path = write(tmp_path / f"a.{write.__name__.removeprefix('write_')}", FILES | {name: b"evil"})
    with pytest.raises(DatasetError) as caught:
        unpacked(path, root)
    assert str(caught.value) == (
        f"{path} is refused: its entry {name!r} would leave the folder; nothing was unpacked. Delete it and download "
        f"it from elsewhere."
    )
    assert below(tmp_path).keys() == {path.name}


LINK, DEVICE, FIFO = 0o120777 << 16, 0o020666 << 16, 0o010666 << 16


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_zip(path.with_suffix(".zip"), FILES | {"val/x.jpg": b"/etc/passwd"}, external_attr=LINK),
        lambda path: write_zip(path.with_suffix(".zip"), FILES | {"val/x.jpg": b""}, external_attr=DEVICE),
        lambda path: write_zip(path.with_suffix(".zip"), FILES | {"val/x.jpg": b""}, external_attr=FIFO),
        lambda path: write_zip(path.with_suffix(".zip"), FILES | {"val/x.jpg": b"secret"}, flag_bits=1),
        *(
            lambda path, kind=kind: write_tar(
                path.with_suffix(".tar"), FILES | {"val/x.jpg": b""}, type=kind, linkname="/etc/passwd"
            )
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
        ),
    ],
)
def test_an_archive_with_an_entry_that_is_no_plain_file_is_refused_as_a_whole(tmp_path, root, write):
    path = write(tmp_path / "a")
    with pytest.raises(DatasetError) as caught:
        unpacked(path, root)
    assert str(caught.value) == (
        f"{path} is refused: its entry 'val/x.jpg' is a link, a device or encrypted, not a plain file; nothing was "
        f"unpacked. Delete it and download it from elsewhere."
    )
    assert below(root) == {}


def test_an_entry_with_a_zero_byte_in_its_name_is_refused(tmp_path, root):
    """zipfile shows such a name only up to the zero byte."""
    path = write_zip(tmp_path / "a.zip", {"val/1.jpg!x": b"1"})
    path.write_bytes(path.read_bytes().replace(b"val/1.jpg!x", b"val/1.jpg\0x"))
    with pytest.raises(DatasetError, match=r"is refused: its entry 'val/1.jpg\\x00x' would leave the folder"):
        unpacked(path, root)


def test_two_entries_for_one_file_are_refused(tmp_path, root):
    path = write_tar(tmp_path / "a.tar.gz", {"one/7.jpg": b"1", "two/7.jpg": b"2"})
    with pytest.raises(DatasetError, match=r"is refused: two of its entries are 'images/7.jpg'; nothing was unpacked"):
        unpacked(path, root, Selection("*.jpg", into="images"))
    assert below(root) == {}


def test_an_archive_without_the_selected_files_is_refused(tmp_path, root):
    path = write_zip(tmp_path / "a.zip", FILES)
    with pytest.raises(DatasetError, match=r"is refused: it has no train/\*.jpg; nothing was unpacked"):
        unpacked(path, root, Selection("train/*.jpg"))


def spoil(path, *, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    return path


def cut(path, *, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def stored_zip(path):
    """A zip whose first file's bytes are as they are, so that one of them can be spoiled."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


def other_method(path):
    """A zip that says that its first file is compressed in a way that nobody knows."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, 8, 77)
    struct.pack_into("<H", content, content.index(b"PK\1\2") + 10, 77)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("write", "name", "said", "whole"),
    [
        (lambda path: cut(stored_zip(path), keep=5000), "a.zip", "File is not a zip file", 0),
        (lambda path: path.write_bytes(b""), "a.zip", "File is not a zip file", 0),
        (lambda path: spoil(stored_zip(path), at=2500), "a.zip", "Bad CRC-32 for file 'val/1.jpg'", 1),
        (lambda path: spoil(write_zip(path, FILES), at=42), "a.zip", "Error -3 while decompressing data: ", 0),
        (lambda path: other_method(write_zip(path, FILES)), "a.zip", "That compression method is not supported", 0),
        (lambda path: path.write_bytes(b"no tar"), "a.tar", "file could not be opened successfully", 0),
        (lambda path: cut(write_tar(path, FILES), keep=5000), "a.tar.gz", "Compressed file ended before the end", 0),
        (lambda path: spoil(write_tar(path, FILES), at=-6), "a.tar.gz", "CRC check failed", 0),
        (lambda path: cut(write_tar(path, FILES, mode="w"), keep=5000), "a.tar", "unexpected end of data", 0),
    ],
)
def test_a_damaged_archive_is_one_line_and_leaves_nothing_half_written(tmp_path, root, write, name, said, whole):
    path = tmp_path / name
    write(path)
    with pytest.raises(DatasetError) as caught:
        unpacked(path, root)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: {said}")
    assert message.endswith(". What was unpacked from it is whole; delete the archive and download it again.")
    assert "\n" not in message
    final = {name: content for name, content in below(root).items() if not name.endswith(".part")}
    assert final == dict(list(FILES.items())[:whole])


def test_too_little_room_is_told_before_anything_is_written(tmp_path, root, monkeypatch):
    path = write_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 9000})())
    with pytest.raises(DatasetError, match=r"root has 0.00 GB free and 0.00 GB are needed, 0.00 to fetch and 0.00 to"):
        unpacked(path, root)
    assert below(root) == {}
    (root / "val").mkdir()
    (root / "val/4.jpg").write_bytes(FILES["val/4.jpg"])
    assert unpacked(path, root)[1] == 4


def test_a_full_disk_is_one_line_and_leaves_the_name_free(tmp_path, root):
    (root / "val").mkdir()
    (root / "val/3.jpg.part").symlink_to("/dev/full")
    with pytest.raises(DatasetError) as caught:
        unpacked(write_zip(tmp_path / "a.zip", FILES), root)
    assert str(caught.value) == (
        f"cannot write {root}/val/3.jpg: No space left on device. Downloaded files are kept; once that is fixed, the "
        f"same command continues."
    )
    assert not (root / "val/3.jpg").exists()


def test_a_file_where_a_folder_must_be_is_one_line(tmp_path, root):
    (root / "val").write_bytes(b"a file")
    with pytest.raises(DatasetError) as caught:
        unpacked(write_zip(tmp_path / "a.zip", FILES), root)
    assert str(caught.value) == (
        f"cannot write {root}/val/0.jpg: a part of this path is a file and not a folder. Downloaded files are kept; "
        f"once that is fixed, the same command continues."
    )


def test_stop_ends_unpacking_between_blocks_of_a_file(tmp_path, root, monkeypatch):
    monkeypatch.setattr(archives, "_BLOCK", 100)
    watch = Watch(lambda progress: watch.stop() if progress.done == 0 else None)
    with pytest.raises(StoppedError):
        unpack(write_zip(tmp_path / "a.zip", FILES), root, selection=IMAGES, watch=watch)
    assert below(root) == {"val/0.jpg.part": b""}


def test_progress_counts_files(tmp_path, root):
    steps = []
    unpack(write_zip(tmp_path / "a.zip", FILES), root, selection=IMAGES, watch=Watch(steps.append))
    assert {(step.phase, step.total) for step in steps} == {("unpack a.zip", 5)}
    assert (steps[0].done, steps[-1].done) == (0, 5)
