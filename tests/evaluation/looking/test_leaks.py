"""Planted leaks are found, and few others."""

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipret import ExtractConfig, FeatureCache, LookConfig, extract, look
from clipret.evaluation.looking.leaks import find_leaks, plain_words
from clipret.evaluation.looking.stage import LEAK_COLUMNS, examine
from clipret.evaluation.looking.suspects import shared_captions
from clipret.machine.progress import silent

# Of each kind of copy, and of captions.
_EACH = 5


def resized(image):
    return image.resize((50, 50), Image.Resampling.BICUBIC)


def recompressed(image):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=40)
    return Image.open(content).convert("RGB")


def cropped(image):
    width, height = image.size
    return image.crop((4, 4, width - 4, height - 4))


COPIES = (resized, recompressed, cropped, ImageOps.mirror)


@pytest.fixture(scope="module")
def planted(searchable, tmp_path_factory):
    """A cache of 160 drawings of different things, half train and half test, with 30 leaks: 20 images, 10 captions.

    Returns its path, and the pairs (kind, test id, train id).
    """
    folder = tmp_path_factory.mktemp("planted")
    cache, rows, pairs = FeatureCache(searchable.cache), [], set()
    for row, file in enumerate(cache.image_files):
        with Image.open(searchable.root / file) as image:
            layer = image.convert("RGBA")
        drawing = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        split = "train" if row % 2 else "test"
        drawing.save(folder / f"{row}.png")
        caption = cache.captions[np.flatnonzero(cache.caption_images == row)[0]]
        rows.append((f"{row}.png", f"{caption} {row}", split))
        number = row // 2 // 4
        if split == "train" and row // 2 % 4 == 0 and number < _EACH * len(COPIES):
            copy = COPIES[number % len(COPIES)]
            copy(drawing).save(folder / f"copy-{row}.png")
            rows.append((f"copy-{row}.png", f"planted {row}", "test"))
            pairs.add(("near copy", f"copy-{row}.png", f"{row}.png"))
    trained = [row for row in rows if row[2] == "train"]
    tested = [place for place, row in enumerate(rows) if row[2] == "test" and not row[0].startswith("copy")]
    for place, (file, caption, _) in zip(tested[:10], trained[-10:], strict=True):
        rows.append((rows[place][0], f"{caption.upper()}!", "test"))
        pairs.add(("same caption", rows[place][0], file))
    with (folder / "planted.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    settings = {"dataset": str(folder / "planted.csv"), "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(out=folder / "planted.h5", **settings))
    return folder / "planted.h5", pairs


def test_at_least_25_of_30_are_found_with_at_most_5_others(planted):
    path, pairs = planted
    assert len(pairs) == 30
    config = LookConfig(cache=path)
    leaks = find_leaks(FeatureCache(path), least=config.least, ratio=config.ratio, on_progress=silent)
    found = {(leak["kind"], leak["file"], leak["other_file"]) for leak in leaks}
    assert len(found & pairs) >= 25, (len(found & pairs), found - pairs)
    assert len(found - pairs) <= 5, found - pairs


def test_equal_files_are_of_their_own_kind(searchable, tmp_path):
    files = FeatureCache(searchable.cache).image_files
    sources = {"a.png": ("train", 0), "b.png": ("test", 0), "c.png": ("val", 9), "d.png": ("test", 20)}
    names = {name: (split, files[place]) for name, (split, place) in sources.items()}
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split"))
        for name, (split, source) in names.items():
            (tmp_path / name).write_bytes((searchable.root / source).read_bytes())
            writer.writerow((name, f"of {name}", split))
    settings = {"dataset": str(tmp_path / "t.csv"), "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(out=tmp_path / "t.h5", **settings))
    found = examine(LookConfig(cache=tmp_path / "t.h5", leaks=tmp_path / "leaks.csv"))
    equal = [leak for leak in found["leaks"] if leak["kind"] == "equal bytes"]
    assert [(leak["file"], leak["other_file"]) for leak in equal] == [("b.png", "a.png")]
    assert found["leak_counts"]["equal bytes"] == 1
    assert not any(leak["kind"] == "near copy" and leak["file"] == "b.png" for leak in found["leaks"])
    with (tmp_path / "leaks.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == LEAK_COLUMNS
    assert len(table) == len(found["leaks"])


def test_the_page_of_a_cache_is_written_whole(searchable, tmp_path):
    result = look(LookConfig(cache=searchable.cache, out=tmp_path / "look.html"))
    text = (tmp_path / "look.html").read_text(encoding="utf-8")
    assert result["bytes"] == len(text.encode()) < 5_000_000
    assert "<script" not in text.lower()
    assert "\x1b" not in text
    json.dumps(result, allow_nan=False)
    cache = FeatureCache(searchable.cache)
    assert sum(result["lengths"]) == len(cache.captions)
    assert len(result["map"]) == len(cache.image_ids)
    assert {0.0, 1.0} <= {point["x"] for point in result["map"]}


def test_wrong_labels_are_among_the_first_candidates(searchable, tmp_path):
    """The captions of 20 images of 160 are exchanged."""
    cache = FeatureCache(searchable.cache)
    captions = [cache.captions[np.flatnonzero(cache.caption_images == row)[0]] for row in range(len(cache.image_ids))]
    exchanged = np.random.default_rng(0).permutation(len(captions))[:20]
    moved = {row: captions[other] for row, other in zip(exchanged, np.roll(exchanged, 1), strict=True)}
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(name, moved.get(row, captions[row])) for row, name in enumerate(cache.image_files)]
        csv.writer(file).writerows([("image", "caption"), *rows])
    settings = {"root": searchable.root, "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(dataset=str(tmp_path / "t.csv"), out=tmp_path / "t.h5", **settings))
    found = examine(LookConfig(cache=tmp_path / "t.h5", listed=20))
    files = {cache.image_files[row] for row in exchanged}
    # By chance there would be two or three.
    assert len(files & {entry["file"] for entry in found["unlikely"]}) >= 8


def test_captions_of_several_images_come_in_the_order_of_the_data():
    made = SimpleNamespace(
        rows=lambda side: np.arange(6), captions=["b", "c", "A!", "a", "B", "c"], caption_images=np.arange(6)
    )
    names = [entry["caption"] for entry in shared_captions(made, most=9)]
    assert names == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("caption", "words"), [("A Dog.", "a dog"), ("a  dog", "a dog"), ("Élan, vital!", "élan vital"), ("...", "")]
)
def test_captions_are_compared_by_their_words(caption, words):
    assert plain_words(caption) == words
