import io
import struct
import zipfile

import pytest

from clipret.datasets.zips import member_index, read_member
from clipret.errors import DatasetError
from clipret.images import read_file

MEMBERS = {"a.jpg": b"x" * 700, "ünï/b.jpg": b"", "c/d.jpg": bytes(range(256)) * 9}


def written(path, members=MEMBERS, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_is_read_as_zipfile_reads_it(tmp_path, method):
    path = written(tmp_path / "x.zip", MEMBERS | {"folder/": b"", "__MACOSX/._a.jpg": b"mac"}, method)
    assert {name: read_member(path, name) for name in member_index(path)} == MEMBERS
    assert {name: size for name, (*_, size) in member_index(path).items()} == {
        name: len(content) for name, content in MEMBERS.items()
    }
    assert read_member(path, "c/d.jpg", start=250, size=10) == MEMBERS["c/d.jpg"][250:260]
    assert read_member(path, "c/d.jpg", start=2_300) == MEMBERS["c/d.jpg"][2_300:]
    assert read_member(path, "c/d.jpg", start=9_999) == b""
    assert read_file("x.zip/c/d.jpg", root=tmp_path) == MEMBERS["c/d.jpg"]


def test_a_file_behind_other_data_and_of_python_s_streams_is_read(tmp_path):
    # Written to what cannot seek, the sizes come after the data.
    file = io.BytesIO()
    file.seekable = lambda: False
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", b"content")
    path = tmp_path / "x.zip"
    path.write_bytes(b"#!/bin/sh\n" + file.getvalue())
    assert read_member(path, "a.jpg") == b"content"


def test_what_is_not_there_is_said_to_be_missing(tmp_path):
    written(tmp_path / "x.zip")
    for name in ("x.zip/e.jpg", "gone.zip/a.jpg"):
        with pytest.raises(FileNotFoundError):
            read_file(name, root=tmp_path)


def encrypted(path):
    """A zip file as if made with a password: the flag in both headers, which is all that is looked at."""
    written(path)
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(magic)
        struct.pack_into("<H", content, start + place, 1)
    path.write_bytes(bytes(content))


REFUSED = {
    "empty": (lambda path: path.write_bytes(b""), "PATH is an empty file; download it again."),
    "text": (
        lambda path: path.write_bytes(b"x" * 99),
        "PATH is no zip file, or is cut short or damaged; download it again.",
    ),
    "cut": (
        lambda path: path.write_bytes(written(path).read_bytes()[:-40]),
        "PATH is no zip file, or is cut short or damaged; download it again.",
    ),
    "encrypted": (
        encrypted,
        "PATH: a password is needed for 1 of 3 members: a.jpg; unpack it with the password, and give the folder.",
    ),
    "lzma": (
        lambda path: written(path, method=zipfile.ZIP_LZMA),
        "PATH: 3 members of 3 are compressed by lzma: a.jpg, ünï/b.jpg, c/d.jpg; expected stored or deflated ones: "
        "pack it again with: zip -0 -r, or unpack it.",
    ),
    "outside": (
        lambda path: written(path, {"../a.jpg": b""}),
        "PATH: the member ../a.jpg points outside the zip file; expected names without a leading / and `..`.",
    ),
    "twice": (
        lambda path: written(path, {"a.jpg": b"", "./a.jpg": b""}),
        "PATH has the member a.jpg twice; pack it again with each file once.",
    ),
    "line-break": (
        lambda path: written(path, {"a\nb.jpg": b""}),
        "PATH: the name of member 'a\\nb.jpg' has a line break; pack it under another name.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_zip_file_that_cannot_be_trusted_is_one_clear_line(tmp_path, name):
    make, message = REFUSED[name]
    path = tmp_path / "x.zip"
    make(path)
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == message.replace("PATH", str(path))


def test_damaged_members_are_errors_of_their_own(tmp_path):
    path = written(tmp_path / "x.zip", {"a.jpg": b"abcdefgh" * 99, "b.jpg": b"plain"})
    content = bytearray(path.read_bytes())
    start = content.find(b"a.jpg") + 5
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    with pytest.raises(OSError, match="compressed data are damaged"):
        read_file("x.zip/a.jpg", root=tmp_path)
    assert read_file("x.zip/b.jpg", root=tmp_path) == b"plain"


def test_a_member_that_inflates_to_more_than_it_says_is_refused(tmp_path):
    path = written(tmp_path / "x.zip", {"a.jpg": bytes(1 << 20)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(b"PK\x01\x02") + 24, 100)
    path.write_bytes(bytes(content))
    with pytest.raises(OSError, match="not of the size that the zip file says"):
        read_file("x.zip/a.jpg", root=tmp_path)
