import errno
import os
import sys
import tarfile
from pathlib import Path

import pytest

from clipret.images import NOT_FOUND, ImageReader, files, read_file, reason_of
from tests.helpers import system
from tests.helpers.zoo import encoded, noise

CONTENT = encoded(noise(), "JPEG")


@pytest.fixture
def problem(tmp_path):
    """Why an image below tmp_path cannot be read; None when it can."""

    def problem(name, **changes):
        reader = ImageReader([name], root=tmp_path, crop=lambda image: image.resize((8, 8)).convert("RGB"), **changes)
        return reader.read([0])[1].get(0)

    def problem_of(name, **changes):
        return problem(name, **({"background": "clip", "side": 8} | changes))

    return problem_of


@pytest.fixture
def pauses(monkeypatch):
    """What was waited between attempts, without waiting."""
    waited = []
    monkeypatch.setattr(files.time, "sleep", waited.append)
    return waited


@pytest.fixture
def failing(monkeypatch):
    """Make the first reads of every path fail with these errors; returns the errors that are left."""

    def fail(*numbers):
        left = list(numbers)
        real = Path.open

        def opened(self, *how, **options):
            if left:
                number = left.pop(0)
                raise OSError(number, os.strerror(number), str(self))
            return real(self, *how, **options)

        monkeypatch.setattr(Path, "open", opened)
        return left

    return fail


@pytest.fixture
def shard(tmp_path):
    """A tar file, part/x.tar, with an image and an empty member."""
    (tmp_path / "b.jpg").write_bytes(CONTENT)
    (tmp_path / "void.jpg").write_bytes(b"")
    (tmp_path / "part").mkdir()
    path = tmp_path / "part" / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "b.jpg", arcname="a/b.jpg")
        tar.add(tmp_path / "void.jpg", arcname="void.jpg")
    return path


def test_a_pipe_is_not_waited_for(problem, tmp_path):
    system.make_pipe(tmp_path / "pipe.jpg")
    assert problem("pipe.jpg") == "not a regular file"


@pytest.mark.skipif(system.IS_ROOT or sys.platform == "win32", reason="everything may be read")
def test_a_file_that_may_not_be_read_says_so(problem, tmp_path):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    (tmp_path / "a.jpg").chmod(0)
    assert problem("a.jpg") == "permission denied"


def test_an_image_of_a_shard_is_read_from_the_tar_file(problem, tmp_path, shard):
    names = ["part/x.tar/a/b.jpg", "part/x.tar/void.jpg", "part/x.tar/gone.jpg", "part/gone.tar/b.jpg"]
    assert [problem(name) for name in names] == [None, "empty file", NOT_FOUND, NOT_FOUND]
    assert read_file(names[0], root=tmp_path) == CONTENT


def test_a_damaged_shard_is_said_to_be_damaged(problem, tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar file" * 100)
    assert problem("x.tar/a.jpg").startswith(f"{tmp_path}/x.tar is not a tar file; download it again"[:150])


@pytest.mark.parametrize("name", ["b.jpg", "part/x.tar/a/b.jpg"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN])
def test_a_read_error_that_passes_is_read_over(name, number, problem, shard, failing, pauses):
    left = failing(number, number, number)
    assert problem(name) is None
    assert left == []
    assert pauses == [0.2, 1.0, 3.0]


@pytest.mark.parametrize("name", ["b.jpg", "part/x.tar/a/b.jpg"])
def test_a_read_error_that_stays_is_told_with_the_number_of_attempts(name, problem, shard, failing, pauses):
    failing(*[errno.EIO] * 100)
    assert problem(name) == "Input/output error (after 4 attempts)"
    assert pauses == [0.2, 1.0, 3.0]
    assert problem(name, attempts=6) == "Input/output error (after 6 attempts)"
    assert pauses[3:] == [0.2, 1.0, 3.0, 3.0, 3.0]
    assert problem(name, attempts=1) == "Input/output error"


def test_an_error_in_the_middle_of_a_file_is_met_by_reading_all_of_it_again(tmp_path, monkeypatch, pauses):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    real, left = Path.open, [True]

    class Failing:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self._file.close()

        def read(self):
            self._file.read(100)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def opened(self, *how, **options):
        return Failing(real(self, *how, **options)) if left and left.pop() else real(self, *how, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert read_file("a.jpg", root=tmp_path) == CONTENT
    assert pauses == [0.2]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG])
def test_an_error_that_stays_what_it_is_is_not_waited_for(number, problem, tmp_path, failing, pauses):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    left = failing(number, number)
    assert problem("a.jpg") == reason_of(OSError(number, os.strerror(number)))
    assert len(left) == 1
    assert pauses == []


def test_an_error_at_the_index_of_a_shard_is_read_over_as_well(problem, shard, failing, pauses):
    """That error comes to us as a DatasetError, and once only: what was indexed is kept."""
    os.utime(shard, (1, 1))
    left = failing(errno.ESTALE)
    assert problem("part/x.tar/a/b.jpg") is None
    assert (left, pauses) == ([], [0.2])


@pytest.mark.parametrize("name", ["b.jpg", "part/x.tar/a/b.jpg"])
def test_a_file_too_long_for_an_image_is_refused_instead_of_read(name, problem, shard, monkeypatch):
    monkeypatch.setattr(files, "_MOST_BYTES", len(CONTENT))
    assert problem(name) is None
    monkeypatch.setattr(files, "_MOST_BYTES", len(CONTENT) - 1)
    assert problem(name) == f"too large: {len(CONTENT):,} bytes, more than {len(CONTENT) - 1:,}"


def test_two_gibibytes_are_the_limit(problem, tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**31 + 1)
    assert problem("sparse.jpg") == "too large: 2,147,483,649 bytes, more than 2,147,483,648"
