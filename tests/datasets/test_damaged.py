"""Damaged and absurd shards and folders: each is read, or refused in one line."""

import contextlib
import io
import random
import shutil
import tarfile
import zipfile

import pytest

from clipret.errors import ClipretError
from clipret.images import read_file
from tests.helpers.hub import image, images, save_to_disk, write_parquet
from tests.helpers.own_data import load, make

STEMS = ("1", "a b", "v1.0", "d/x", "é", "..", "-", "a.tar/x", "x" * 120, "/abs", "./p", "\x1b[3")
ENDINGS = ("jpg", "txt", "json", "png", "input.jpg", "out.txt", "0.jpg", "1.txt", "a.json", "img", "jpg.", "")
TEXTS = (b"a dot", b"", b"\xff\xfe", b"&nbsp;", b"\0", b"a\nb\n", b"[" * 5_000, b"null")
OBJECTS = (
    b'{"caption": "x"}',
    b'{"captions": ["a", null]}',
    b"[]",
    b"{" * 3_000,
    b'{"caption": "x", "split": "test"}',
    b'{"caption": {"a": 1}}',
    b'{"caption": ' + b"9" * 5_000 + b"}",
    b'{"caption": "\\ud800"}',
)
KINDS = (b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"K", b"Z")
TABLES = (
    b"image,caption\na.jpg,x\n",
    b"image,caption,split\na.jpg,x,train\n",
    b"",
    b"\xff\xfe",
    b'image,caption\n"a.jpg,x\n',
    b'{"image": "a.jpg", "caption": ["x"]}\n',
    b"a.jpg#0\tx\n",
    b"PAR1",
    b"image,caption\n../a.jpg,x\n",
)
PLACES = ("", "train/", "data/train/", "Images/", "val/", "test/a/")
NAMES = (
    *("a.jpg", "b.png", "a.txt", "captions.jpg", "captions.txt", "results.csv", "x.token", "metadata.jsonl"),
    *("train.csv", "dev.tsv", "test.jsonl", "train-00000-of-00001.parquet", "other.csv", "0.tar", "train-0.tar"),
)


def mostly(draw, usual, others):
    return draw.choice(usual if draw.random() < 0.85 else others)


def shard(draw):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=draw.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        for _ in range(draw.randint(0, 6)):
            ending = mostly(draw, ENDINGS[:3], ENDINGS)
            member = tarfile.TarInfo(f"{mostly(draw, STEMS[:4], STEMS)}.{ending}")
            text = mostly(draw, TEXTS[:1], TEXTS) if ending != "json" else mostly(draw, OBJECTS[:1], OBJECTS)
            if draw.random() < 0.05:
                member.type, member.linkname, text = draw.choice(KINDS), "../x", b""
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    damaged = bytearray(content.getvalue())
    if draw.random() < 0.3:
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(min(len(damaged), 6_000))] = draw.randrange(256)
    return bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.1 else damaged)


def folder(draw):
    files = {}
    for _ in range(draw.randint(1, 8)):
        name = draw.choice(NAMES)
        content = shard(draw) if name.endswith(".tar") else draw.choice(TABLES if draw.random() < 0.7 else TEXTS)
        files[f"{draw.choice(PLACES)}{name}"] = content
    return files


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_shard_or_a_folder_holds_it_is_read_or_refused_in_one_line(tmp_path, seed):
    draw = random.Random(seed)
    refusals, read = [], 0
    for number in range(500):
        place = make(tmp_path / "folder", folder(draw) if number % 2 else {"x.tar": shard(draw)})
        try:
            load(place if number % 2 else place / "x.tar")
            read += 1
        except ClipretError as error:
            refusals.append(str(error))
        shutil.rmtree(place)
    assert min(read, len(refusals)) > 20
    assert [message for message in refusals if "\n" in message] == []


def tables(place):
    """What has images inside: the path to load -> its files."""
    cells, texts = [image((9 * row, 3, 4), f"{row}.png") for row in range(20)], [["x", "y"]] * 20
    columns = {"image": images(cells), "caption": texts, "split": ["train"] * 20, "id": list(range(20))}
    plain = write_parquet(place / "plain.parquet", columns, row_group_size=7)
    packed = write_parquet(place / "packed.parquet", columns, compression="zstd")
    named = {"filename": [f"{row}.jpg" for row in range(20)], "sentids": [[2 * row, 2 * row + 1] for row in range(20)]}
    karpathy = write_parquet(place / "karpathy.parquet", {"image": images(cells), "raw": texts, **named})
    saved = save_to_disk(place / "saved", columns, files=2)
    zipped = place / "x.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for row in range(5):
            archive.writestr(f"{row}.png", cells[row]["bytes"])
            archive.writestr(f"{row}.txt", "a dot")
    files = {path: [path] for path in (plain, packed, karpathy, zipped)}
    return files | {saved: sorted(saved.glob("*.arrow"))}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_table_of_images_holds_it_is_read_or_refused_in_one_line(tmp_path, seed):
    draw, refusals, read = random.Random(seed), [], 0
    files = tables(tmp_path)
    for _ in range(500):
        path = draw.choice(list(files))
        file = draw.choice(files[path])
        whole = file.read_bytes()
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.2 else whole)
        for _ in range(draw.randint(0, 6)):
            if damaged:
                # Half of them in what comes last, where Parquet and zip files say what they have.
                start = 0 if draw.random() < 0.5 else max(0, len(damaged) - 900)
                damaged[draw.randrange(start, len(damaged))] = draw.randrange(256)
        # Another file: the last one may still be mapped.
        file.unlink()
        file.write_bytes(damaged)
        try:
            dataset = load(path)
            dataset.missing_rows()
            read += 1
            for name in dataset.image_files:
                with contextlib.suppress(OSError, ClipretError):
                    read_file(name, root=dataset.root, attempts=1)
        except ClipretError as error:
            refusals.append(str(error))
        file.unlink()
        file.write_bytes(whole)
    assert min(read, len(refusals)) > 20
    assert [message for message in refusals if "\n" in message] == []
