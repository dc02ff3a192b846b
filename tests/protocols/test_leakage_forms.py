"""The leakage guard from files to refusal, in the forms that people have their data in: tables, folders, shards."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from clipret import cli
from tests.helpers.own_data import write_shard

FORMS = ("table", "folder", "shards")


def picture(number: int) -> bytes:
    """A PNG file; equal numbers give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_set(folder, name: str, form: str, samples) -> str:
    """A data set of (file name, number of its picture, split); returns what --dataset takes."""
    if form == "shards":
        members = {}
        for stem, number, split in samples:
            about = {"caption": f"thing {number} of {name}", "split": split}
            members |= {f"{stem}.png": picture(number), f"{stem}.json": about}
        write_shard(folder / name / f"{name}-0.tar", members)
        return str(folder / name)
    place = folder / name if form == "folder" else folder / f"{name} files"
    lines = []
    for stem, number, split in samples:
        relative = f"{split}/{stem}.png"
        (place / split).mkdir(parents=True, exist_ok=True)
        (place / relative).write_bytes(picture(number))
        lines.append({"file_name": relative, "caption": f"thing {number} of {name}", "split": split})
    if form == "folder":
        (place / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return str(place)
    rows = "".join(f"{place.name}/{line['file_name']},{line['caption']},{line['split']}\n" for line in lines)
    (folder / f"{name}.csv").write_text(f"image,caption,split\n{rows}")
    return str(folder / f"{name}.csv")


@pytest.fixture
def work(tmp_path, monkeypatch, checkpoints):
    """Extract a data set, in any form, to NAME.h5 of the current folder."""
    monkeypatch.chdir(tmp_path)

    def extract(name: str, form: str, samples) -> str:
        dataset = write_set(tmp_path, name, form, samples)
        words = ["extract", "--dataset", dataset, "--model", str(checkpoints["transformer"]), "--out", f"{name}.h5"]
        assert cli.main([*words, "--workers", "0", "--batch-size", "8", "--device", "cpu", "--json"]) == 0
        return f"{name}.h5"

    return extract


def run(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(words))
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def train(capsys, cache, *more) -> str:
    status, out, _ = run(capsys, "train", "--cache", cache, "--epochs", "1", "--name", "r", "-q", *more)
    assert status == 0
    return out.strip()


TRAINED = [(f"im{number}", number, "train" if number < 6 else "val") for number in range(8)]
OTHERS = [("im0", 70, "test"), ("im1", 71, "test"), ("im2", 72, "test")]


@pytest.mark.parametrize("form", FORMS)
def test_other_files_under_the_same_names_are_measured(work, capsys, form):
    head = train(capsys, work("first", form, TRAINED))
    status, out, _ = run(capsys, "eval", "--head", head, "--cache", work("other", form, OTHERS), "--json")
    assert status == 0
    assert json.loads(out)["leakage"] == {"checked": True, "trained_on": 0, "images": 3}


@pytest.mark.parametrize(("form", "other"), list(zip(FORMS, (*FORMS[1:], FORMS[0]), strict=True)))
def test_the_same_files_under_other_names_are_refused_in_whatever_form_they_come(work, capsys, tmp_path, form, other):
    head = train(capsys, work("first", form, TRAINED))
    renamed = [("copy of im0", 0, "test"), ("x", 71, "test"), ("y", 3, "test")]
    status, _, err = run(capsys, "eval", "--head", head, "--cache", work("second", other, renamed))
    assert (status, err) == (
        1,
        "error: 2 of the 3 test images were trained on by runs/r: figures on them say nothing about new images. "
        "Measure on images held out from it, or see the figures all the same with --allow-leak.\n",
    )
    lone = tmp_path / "somewhere" / "h.safetensors"
    lone.parent.mkdir()
    lone.write_bytes((tmp_path / "runs/r/head.safetensors").read_bytes())
    status, _, err = run(capsys, "eval", "--head", str(lone), "--cache", "second.h5")
    assert status == 1
    assert err.startswith(f"error: 2 of the 3 test images were trained on by {lone}: ")
    status, _, err = run(capsys, "failures", "--head", head, "--cache", "second.h5")
    assert status == 1
    assert err.startswith("error: 2 of the 3 test images were trained on by runs/r: ")


@pytest.mark.parametrize("form", FORMS)
def test_a_merge_does_not_defeat_it(work, capsys, form):
    first = work("first", form, TRAINED)
    head = train(capsys, first)
    named = [(f"own{number}", number, split) for number, split in ((0, "test"), (80, "test"), (81, "val"))]
    second = work("second", form, named)
    status, _, err = run(capsys, "merge", first, second, "-o", "both.h5")
    assert status == 1
    assert "1 images of second.h5 are in first.h5 too, byte for byte, in another split: " in err
    third = work("third", form, [(f"new{number}", number, "test") for number in (90, 91)])
    assert run(capsys, "merge", second, third, "-o", "both.h5", "-q")[0] == 0
    status, _, err = run(capsys, "eval", "--head", head, "--cache", "both.h5")
    assert status == 1
    assert err.startswith("error: 1 of the 4 test images were trained on by runs/r: ")


@pytest.mark.parametrize("form", FORMS)
def test_byte_copies_are_reported_refused_and_left_out_on_request(work, capsys, form):
    copies = [*TRAINED, ("copy0", 0, "test"), ("copy1", 1, "test"), ("new", 40, "test"), ("copy2", 2, "val")]
    cache = work("copies", form, copies)
    status, out, _ = run(capsys, "info", cache, "--json")
    assert json.loads(out)["cross_split_copies"] == [
        {"split": "test", "images": 3, "copies": 2, "of": "train"},
        {"split": "val", "images": 3, "copies": 1, "of": "train"},
    ]
    _, out, _ = run(capsys, "info", cache)
    assert "2 of the 3 test images equal images of train, byte for byte" in out
    _, out, _ = run(capsys, "eval", "--zero-shot", "--cache", cache, "--resamples", "0")
    assert "2 of the 3 test images equal images of train, byte for byte\n" in out
    head = train(capsys, cache)
    status, _, err = run(capsys, "eval", "--head", head)
    assert (status, err) == (
        1,
        "error: 2 of the 3 test images were trained on by runs/r: figures on them say nothing about new images. The "
        "train split has images of test: train again with --drop-cross-split-duplicates, which leaves them out, or see "
        "the figures all the same with --allow-leak.\n",
    )
    words = ("train", "--cache", cache, "--epochs", "1", "--name", "clean", "--drop-cross-split-duplicates", "--json")
    status, out, _ = run(capsys, *words)
    assert json.loads(out)["train_images"] == 3
    assert json.loads(out)["remarks"][0] == ("3 training images were left out: val or test has them too")
    status, out, _ = run(capsys, "eval", "--head", "runs/clean", "--resamples", "0")
    assert status == 0
    assert "byte for byte; the head was trained on none of them\n" in out


def test_a_sweep_on_copies_is_refused_before_it_trains(work, capsys, tmp_path):
    cache = work("copies", "table", [*TRAINED, ("copy0", 0, "test"), ("new", 40, "test")])
    words = ("sweep", "--cache", cache, "--epochs", "1", "--seeds", "1", "--lr", "1e-4,1e-3", "--name", "s")
    status, _, err = run(capsys, *words)
    assert (status, err) == (
        1,
        "error: 1 of the 2 test images of copies.h5 are images of train too, and the best configuration is measured on "
        "them; give --drop-cross-split-duplicates, which leaves those of train out.\n",
    )
    assert not (tmp_path / "runs").exists()
    status, out, _ = run(capsys, *words, "--drop-cross-split-duplicates", "--json")
    assert status == 0
    assert json.loads(out)["fixed"]["drop_cross_split_duplicates"] is True
    assert json.loads(out)["configurations"][0]["test"] is not None


def test_scans_of_sixteen_bits_are_reported_as_a_single_colour(work, capsys, tmp_path):
    cache = work("scans", "table", [("a", 1, "test"), ("b", 2, "test")])
    noise = np.random.default_rng(0).integers(300, 65536, (20, 20), dtype=np.uint16)
    for stem in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / "scans files" / "test" / f"{stem}.png")
    words = ("--dataset", "scans.csv", "--model", json.loads(run(capsys, "info", cache, "--json")[1])["model"])
    (tmp_path / cache).unlink()
    _, out, _ = run(capsys, "extract", *words, "--workers", "0", "--out", cache)
    expected = (
        "2 images are of a single colour to the encoder, such as scans files/test/a.png; 16-bit and float images "
        "become all white or all black in clip's conversion"
    )
    assert f"{expected}.\n" in out
    assert json.loads(run(capsys, "info", cache, "--json")[1])["single_colour"] == {
        "images": 2,
        "first": "scans files/test/a.png",
    }
    leakage = json.loads(run(capsys, "check", "--dataset", "scans.csv", "--json")[1])
    assert leakage["single_colour"] == {"images": 2, "first": "scans files/test/a.png"}
