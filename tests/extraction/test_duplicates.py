import hashlib
import os
import random
import sys
import tarfile
import threading

import numpy as np
import pytest

from clipret.extraction import duplicates
from clipret.extraction.duplicates import sources_of_images, sources_of_texts
from tests.helpers import system

BLOCK = 4096


def firsts(values) -> list[int]:
    """The plain reference: for each value the place of the first one that equals it."""
    seen = {}
    return [seen.setdefault(value, place) for place, value in enumerate(values)]


def put(folder, contents) -> list[str]:
    """Write the contents as files 0000.jpg ...; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.jpg" for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    return names


@pytest.fixture
def read(monkeypatch):
    """Rows whose end was read, and rows that were read whole."""
    rows = {"end": [], "whole": []}

    def note(name):
        real = getattr(duplicates._Bytes, name)

        def noting(self, row):
            rows[name].append(int(row))
            return real(self, row)

        monkeypatch.setattr(duplicates._Bytes, name, noting)

    note("end")
    note("whole")
    return rows


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_equal_texts_have_the_row_of_the_first(count):
    chance = random.Random(count)
    texts = [f"{chance.randrange(300)} dögs" for _ in range(count)]
    sources = sources_of_texts(texts)
    assert sources.dtype == np.int64
    assert sources.tolist() == firsts(texts)


def test_texts_that_differ_in_what_one_cannot_see_are_not_equal():
    texts = ["a dog", "a dog ", "a  dog", "A dog", "a dog\u200b", "a dog", "a do\u0308g", "a d\u00f6g"]
    assert sources_of_texts(texts).tolist() == [0, 1, 2, 3, 4, 0, 6, 7]


def test_texts_that_share_a_hash_are_told_apart():
    class Text(str):
        __slots__ = ()

        def __hash__(self):
            return len(self)

    texts = [Text(text) for text in ("ab", "cd", "ab", "e", "cd", "f", "e")]
    assert sources_of_texts(texts).tolist() == [0, 1, 0, 3, 1, 5, 3]


def test_images_of_equal_bytes_have_the_row_of_the_first(tmp_path):
    """Against sha256 of every file, of files of few sizes that differ at the beginning, the end or in the middle."""
    chance, contents = random.Random(0), []
    bases = [chance.randbytes(size) for size in (1, 50, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK) for _ in range(3)]
    for _ in range(600):
        content = bytearray(chance.choice(bases))
        if chance.random() < 0.5:
            content[chance.choice([0, len(content) // 2, -1])] = chance.randrange(4)
        contents.append(bytes(content))
    names = put(tmp_path, contents)
    sources = sources_of_images(names, root=tmp_path)
    assert sources.dtype == np.int64
    assert sources.tolist() == firsts(hashlib.sha256(content).digest() for content in contents)
    assert 100 < np.sum(sources != np.arange(600)) < 600


def test_a_file_is_read_only_as_far_as_another_one_may_equal_it(tmp_path, read):
    noise = random.Random(1).randbytes(3 * BLOCK)
    same_end = b"x" + noise[1:]
    names = put(tmp_path, [noise, noise[:-1], noise, same_end, noise[:-1] + b"x", b"alone", b""])
    names += [names[0], names[5]]
    assert sources_of_images(names, root=tmp_path).tolist() == [0, 1, 0, 3, 4, 5, 6, 0, 5]
    assert sorted(read["end"]) == [0, 2, 3, 4], "the size of the others is theirs alone"
    assert sorted(read["whole"]) == [0, 2, 3]


def test_a_path_that_comes_twice_is_not_even_looked_at_twice(tmp_path, read):
    names = put(tmp_path, [b"abc", b"abcd"])
    assert sources_of_images([names[0], names[1]] * 500, root=tmp_path).tolist() == [0, 1] * 500
    assert read == {"end": [], "whole": []}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes")
def test_what_cannot_be_read_stands_for_itself(tmp_path, monkeypatch):
    content = b"y" * 5000
    names = put(tmp_path, [content] * 4 + [b"", b"", content])
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    system.make_pipe(tmp_path / "pipe.jpg")
    names += ["folder", "other", "missing.jpg", "also/missing.jpg", "pipe.jpg", "nul\0.jpg", "missing.tar/a.jpg"]
    real = duplicates._Bytes._read

    def failing(self, row, **how):
        if row == 0 or (row == 2 and "skipped" not in how):
            raise OSError(5, "Input/output error")
        return real(self, row, **how)

    monkeypatch.setattr(duplicates._Bytes, "_read", failing)
    expected = np.arange(len(names))
    expected[[3, 6]] = 1
    assert sources_of_images(names, root=tmp_path).tolist() == expected.tolist()


def test_a_file_that_shrinks_while_it_is_read_stands_for_itself(tmp_path, monkeypatch):
    names = put(tmp_path, [b"z" * 9000] * 3)
    real = duplicates._Bytes.end

    def shrinking(self, row):
        digest = real(self, row)
        if row == 1:
            os.truncate(tmp_path / names[1], 4000)
        return digest

    monkeypatch.setattr(duplicates._Bytes, "end", shrinking)
    assert sources_of_images(names, root=tmp_path).tolist() == [0, 1, 0]


def test_members_of_tar_files_are_compared_with_each_other_and_with_files(tmp_path):
    chance = random.Random(2)
    one, two = chance.randbytes(6000), chance.randbytes(6000)
    put(tmp_path / "a", [one, two])
    for shard, members in (("x.tar", ["0000.jpg", "0001.jpg"]), ("b/y.tar", ["0001.jpg"])):
        (tmp_path / shard).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / shard, "w") as tar:
            for member in members:
                tar.add(tmp_path / "a" / member, arcname=f"in/{member}")
    (tmp_path / "bad.tar").write_bytes(b"no tar file" * 500)
    names = [
        *("x.tar/in/0001.jpg", "a/0000.jpg", "x.tar/in/0000.jpg", "b/y.tar/in/0001.jpg", "a/0001.jpg"),
        *("x.tar/in/gone.jpg", "bad.tar/in/0001.jpg", "x.tar/in/0001.jpg"),
    ]
    assert sources_of_images(names, root=tmp_path).tolist() == [0, 1, 1, 0, 0, 5, 6, 0]


def test_nothing_is_reported_of_what_takes_no_time_and_all_of_what_does(tmp_path, monkeypatch):
    contents = [b"w" * 5000] * 600
    names, reports = put(tmp_path, contents), []
    assert not sources_of_images(names, root=tmp_path, on_progress=reports.append).any()
    assert reports == []
    monkeypatch.setattr(duplicates, "_REPORT_SECONDS", 0.0)
    sources_of_images(names, root=tmp_path, on_progress=reports.append)
    phases = [(report.phase, report.done, report.total) for report in reports]
    expected = [(phase, done, 600) for phase in ("file sizes", "file ends", "equal files") for done in (256, 512, 600)]
    assert phases == expected


def test_an_interruption_comes_out_and_leaves_no_thread_at_work(tmp_path, monkeypatch):
    def interrupt(progress):
        raise KeyboardInterrupt

    names = put(tmp_path, [b"v" * 5000] * 600)
    monkeypatch.setattr(duplicates, "_REPORT_SECONDS", 0.0)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        sources_of_images(names, root=tmp_path, on_progress=interrupt)
    assert threading.active_count() == before
