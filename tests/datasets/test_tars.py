import io
import tarfile

import pytest

from clipret.datasets.base import RetrievalDataset
from clipret.datasets.tars import member_index, read_member
from clipret.errors import DatasetError
from tests.helpers.tars import FORMATS, write_tar

LONG = f"{'folder/' * 30}a.jpg"


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("form", FORMATS)
def test_every_member_is_read_as_tarfile_reads_it(tmp_path, form):
    members = [
        ("a.jpg", b"x" * 700),
        ("ünï/b.jpg", b""),
        ("c.jpg", b"y" * 512),
        (LONG if form != "ustar" else "d", b"z"),
    ]
    path = write_tar(tmp_path / "x.tar", members, form=form)
    assert list(member_index(path)) == [name for name, _ in members]
    with tarfile.open(path) as tar:
        assert {name: read_member(path, name) for name in member_index(path)} == {
            member.name: tar.extractfile(member).read() for member in tar
        }


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_says_to_be_gigabytes_is_not_read(tmp_path, kind):
    header = special("long", kind)
    header.size = 3 << 30
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        # A hole: it takes no room on the disk.
        file.truncate(4 << 30)
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == (
        f"{path}: a header at byte 512 says that it has 3,221,225,472 bytes, over 1,048,576; pack it again."
    )


def test_offsets_and_sizes_are_those_of_the_bytes(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a", b"12345"), ("b", b"678")], form="ustar")
    assert member_index(path) == {"a": (512, 5), "b": (1536, 3)}


def test_folders_are_left_out_and_names_lose_their_dot(tmp_path):
    folder = special("./in", tarfile.DIRTYPE)
    path = write_tar(
        tmp_path / "x.tar", [special(".", tarfile.DIRTYPE), folder, ("./in/a.jpg", b"1"), ("./b.jpg", b"2")]
    )
    assert list(member_index(path)) == ["in/a.jpg", "b.jpg"]
    assert read_member(path, "in/a.jpg") == b"1"


def test_the_index_is_read_once_and_again_when_the_file_has_changed(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a", b"1")])
    assert member_index(path) is member_index(path)
    write_tar(path, [("a", b"1"), ("b", b"2" * 20_000)])
    assert list(member_index(path)) == ["a", "b"]


def test_missing_images_in_a_tar_file_are_found(tmp_path):
    write_tar(tmp_path / "x.tar", [("in/a.jpg", b"1")])
    files = ["x.tar/in/a.jpg", "x.tar/b.jpg", "y.tar/a.jpg", "x.tar/a.jpg"]
    dataset = RetrievalDataset(
        name="made",
        root=tmp_path,
        image_ids=files,
        image_files=files,
        image_splits=[0] * 4,
        captions=["a"],
        caption_images=[0],
        split_rule="given",
        caption_ids=["0"],
    )
    assert dataset.missing_rows().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: b"", "{path} is an empty file; expected a tar file: download it again."),
        (lambda whole: b"<html>404</html>", "{path} is not a tar file; download it again, or pack it with: tar -cf."),
        (lambda whole: b"\xff" * 4096, "{path} is not a tar file; download it again, or pack it with: tar -cf."),
        (lambda whole: whole[:300], "{path} is not a tar file; download it again, or pack it with: tar -cf."),
        # Within a member, within a header, between two members, and before the end mark.
        (lambda whole: whole[:1000], "{path} is cut short or damaged at byte 1,000; download it again."),
        (lambda whole: whole[:2000], "{path} is cut short or damaged at byte 1,536; download it again."),
        (lambda whole: whole[:1536], "{path} is cut short or damaged at byte 1,536; download it again."),
        (lambda whole: whole[:3072], "{path} is cut short or damaged at byte 3,072; download it again."),
        (
            lambda whole: whole[:1600] + b"\xff" * 60 + whole[1660:],
            "{path} is cut short or damaged at byte 1,536; download it again.",
        ),
        (
            lambda whole: whole + whole,
            "{path} has more data after its end at byte 3,072, as tar files joined by `cat` do; name them one by one.",
        ),
        (
            lambda whole: b"\x1f\x8b\x08" + whole,
            "{path} is compressed; images are read from anywhere in a shard, which takes a plain .tar: decompress it "
            "first.",
        ),
    ],
)
def test_a_tar_file_that_is_not_whole_is_one_clear_line(tmp_path, change, message):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)], form="ustar")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_file_is_refused(tmp_path, mode):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"x")], mode=mode)
    with pytest.raises(DatasetError, match=r"x\.tar is compressed; images are read from anywhere"):
        member_index(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("../a.jpg", b"1")],
            "the member ../a.jpg points outside the shard; expected names without a leading / and `..`.",
        ),
        (
            [("b/../../a.jpg", b"1")],
            "the member b/../../a.jpg points outside the shard; expected names without a leading / and `..`.",
        ),
        (
            [("/etc/a.jpg", b"1")],
            "the member /etc/a.jpg points outside the shard; expected names without a leading / and `..`.",
        ),
        (
            [special("a.jpg", tarfile.SYMTYPE, "/etc/passwd")],
            "the member a.jpg is a link; expected plain files: pack it again, with the files themselves.",
        ),
        (
            [("b.jpg", b"1"), special("a.jpg", tarfile.LNKTYPE, "b.jpg")],
            "the member a.jpg is a link; expected plain files: pack it again, with the files themselves.",
        ),
        (
            [special("a.jpg", tarfile.FIFOTYPE)],
            "the member a.jpg is a device; expected plain files: pack it again, with the files themselves.",
        ),
        ([("a\nb.jpg", b"1")], "the name of member 'a\\nb.jpg' has a line break; pack it under another name."),
    ],
)
def test_a_member_that_is_no_plain_file_inside_is_refused(tmp_path, members, message):
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("./a.jpg", b"2")])
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == f"{path} has the member a.jpg twice; pack it again with each file once."


def test_a_sparse_member_is_refused(tmp_path):
    info = special("a.jpg", tarfile.REGTYPE)
    # How GNU tar writes a file with holes in the pax format: its map is at the start of the data.
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
    info.pax_headers["GNU.sparse.realsize"] = "100000"
    data = b"1\n99999\n1\n".ljust(512, b"\0") + b"x".ljust(512, b"\0")
    info.size = len(data)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(info, io.BytesIO(data))
    with pytest.raises(DatasetError, match=r"the member a\.jpg is a sparse file; expected plain files"):
        member_index(tmp_path / "x.tar")


def test_a_tar_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"x\.tar cannot be read: No such file or directory\."):
        member_index(tmp_path / "x.tar")


def test_reading_a_member_fails_as_reading_a_file_does(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1")])
    with pytest.raises(FileNotFoundError, match="no such member"):
        read_member(path, "b.jpg")
    with pytest.raises(OSError, match=r"y\.tar cannot be read"):
        read_member(tmp_path / "y.tar", "a.jpg")
