"""What the test beds are made of, and how they are split."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import pytest
from PIL import Image

SETS = {
    "one": ("General", {"cat-bold": "<a/>", "dog_16px": "<b/>", "twin": "<c/>", "outline": "<d/>", "blank": "white"}),
    "two": ("General", {"cat": "<e/>", "other-twin": "<c/>", "Broken": "broken", "bird-house": "<f/>"}),
    "flags": ("Flags / Maps", {"norway": "<g/>"}),
}


def rendered(*, svg_string, **size):
    """In the place of a renderer: a picture whose colours are those of its source's digest."""
    if "broken" in svg_string:
        raise ValueError
    body = svg_string.split(">", 1)[1]
    digest = b"\xff" * 6 if "white" in body else hashlib.sha256(body.encode()).digest()[:6]
    image = Image.new("RGB", (2, 1))
    image.putdata([tuple(digest[:3]), tuple(digest[3:])])
    out = io.BytesIO()
    image.resize((size["width"], size.get("height", 5)), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def write_archive(path, *, sets):
    path.parent.mkdir(parents=True)
    files = {"collections.json": {name: {"category": category} for name, (category, _) in SETS.items()}}
    for name in sets:
        icons = {icon: {"body": body} for icon, body in SETS[name][1].items()}
        files[f"json/{name}.json"] = {"prefix": name, "icons": icons, "width": 24, "height": 24}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def testbeds(script, monkeypatch):
    module = script("testbeds")
    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=rendered))
    monkeypatch.setattr(module, "fetch", lambda sources, *, folder: None)
    for name, count in (("_TEST", 2), ("_VAL", 1), ("_FEW", 1)):
        monkeypatch.setattr(module, name, count)
    return module


def test_icons_are_one_drawing_for_each_name_without_what_shows_nothing_or_was_there(testbeds, tmp_path):
    for folder, sets in (("a", ["one", "two", "flags"]), ("b", ["two", "flags", "one"])):
        write_archive(tmp_path / folder / "archives" / testbeds.ICONS.archive, sets=sets)
        testbeds._icons(tmp_path / folder)
    pairs = read_table(tmp_path / "a" / "icons.csv")
    # Of two names with the same drawing the first by lot.
    twin = min(("twin", "other twin"), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert {pair["caption"] for pair in pairs} == {"cat", "dog", "bird house", twin}
    assert [pair["split"] for pair in pairs] == ["test", "test", "val", "train"]
    digests = [hashlib.sha256((tmp_path / "a" / pair["image"]).read_bytes()).hexdigest() for pair in pairs]
    assert len(set(digests)) == 4
    assert read_table(tmp_path / "b" / "icons.csv") == pairs
    assert read_table(tmp_path / "a" / "icons-20k.csv") == pairs


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_stamps_are_the_drawings_with_an_english_description(testbeds, tmp_path):
    package = tmp_path / "package"
    stamps = package / "usr" / "share" / "stamps"
    stamps.mkdir(parents=True)
    for number in range(10):
        Image.new("RGBA", (6, 4), (10 * number, 0, 0, 255)).save(stamps / f"{number}.png")
        (stamps / f"{number}.txt").write_text(f"A stamp {number}.\nde.utf8=Eine Marke.\n", encoding="utf-8")
    shutil.copyfile(stamps / "3.png", stamps / "same.png")
    (stamps / "same.txt").write_text("A stamp 3.\n", encoding="utf-8")
    (stamps / "drawn.svg").write_text("<svg><drawn/></svg>", encoding="utf-8")
    (stamps / "drawn.txt").write_text("A drawing.\n", encoding="utf-8")
    Image.new("RGB", (6, 4)).save(stamps / "untold.png")
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN" / "control").write_text(
        "Package: tuxpaint-stamps-default\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: stamps\n"
    )
    archives = tmp_path / "bed" / "archives"
    archives.mkdir(parents=True)
    target = archives / "tuxpaint-stamps-default_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(package), str(target)], check=True, capture_output=True)
    testbeds._stamps(tmp_path / "bed")
    pairs = read_table(tmp_path / "bed" / "stamps.csv")
    assert sorted(pair["caption"] for pair in pairs) == sorted([*(f"A stamp {n}." for n in range(10)), "A drawing."])
    assert [pair["split"] for pair in pairs] == ["test", "test", "val", *["train"] * 7, "test"]
    for pair in pairs:
        with Image.open(tmp_path / "bed" / pair["image"]) as image:
            assert image.mode == "RGB"
