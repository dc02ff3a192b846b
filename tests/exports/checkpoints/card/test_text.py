"""What the card says, and that none of it is markup of somebody else's."""

import ast
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import ExportConfig, export
from clipret.exports import TARGETS
from clipret.exports.checkpoints.card.text import card_text, read_figures
from clipret.exports.checkpoints.source import open_source
from clipret.exports.checkpoints.stage import load_target
from tests.helpers.backbone_models import lively_clip
from tests.helpers.exported_runs import HEAD_ONLY, WHOLE, extracted_run, record_of


def section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def card(run):
    return card_text(record_of(run), WHOLE, figures=read_figures(run))


def test_it_has_its_sections(card):
    assert re.findall(r"^## (.*)$", card, flags=re.MULTILINE) == [
        *("Base model", "Data", "Training", "Figures", "How to use it", "Verification", "What it is not for"),
        *("Licences", "How it was made"),
    ]


def test_settings_that_are_not_the_default_are_named_and_no_others(card):
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", section(card, "Training"), flags=re.MULTILINE))
    assert set(rows) == {
        *("setting", "---", "loss", "head", "epochs", "batch size", "lr", "warmup", "seed"),
        *("kept epoch", "scale of the loss", "bias of the loss"),
    }
    assert (rows["loss"], rows["head"], rows["lr"], rows["warmup"]) == ("sigmoid", "linear", "0.003", "2")


def test_figures_of_the_verification_are_the_records(card):
    text = section(card, "Verification")
    assert "| made | 32 | 16 | 4.7e-05 | 3 of 16 images differ, by at most 3.9e-01 |" in text
    assert "| other |  |  | not opened: its package was not installed |  |" in text
    assert r"- made: made rounds to \`halves\`." in text
    assert "- The bias has no place there." in text
    assert "holds float16" in text
    assert "at most 3.1e-04 (captions) and 2.1e-04 (images)" in text


def test_images_that_were_not_at_hand_are_said(run):
    record = record_of(run) | {"images_missing": "1.png: No such file"}
    text = card_text(record, WHOLE, figures=None)
    assert "- Images were not at hand, or not all of them: 1.png: No such file." in text


def test_it_says_how_figures_come_about_where_there_are_none(run):
    figures = read_figures(run)
    missing = section(card_text(record_of(run), WHOLE, figures=None), "Figures")
    assert missing.startswith("It was not measured yet.")
    assert f"\nclipret eval --head {run.name}\nclipret export {run.name} --to clip --out exported\n" in missing
    stale = [measured | {"finished": False} for measured in figures]
    text = section(card_text(record_of(run), WHOLE, figures=stale), "Figures")
    assert text.startswith("It was measured before its training was complete.")


def test_a_head_without_its_run_says_so(run, cache_path, tmp_path):
    alone = tmp_path / "alone.safetensors"
    (run / "head.safetensors").rename(alone)
    text = card_text(record_of(alone, cache=cache_path), WHOLE, figures=None)
    assert text.count("The head came as a file without its run") == 2
    assert "# alone.safetensors" in text


def test_a_head_alone_is_used_by_its_own_lines(run):
    card = card_text(record_of(run), HEAD_ONLY, figures=None)
    assert section(card, "How to use it") == (
        "In this folder, with `features` as the encoder gives them to its projection (image 24, text 16, embedding 12):"
        '\n\n```python\nimport made\n\nimages, texts = made.load("./made.bin").embed(pictures, captions)\n```\n\n'
    )
    text = section(card, "Verification")
    assert "embedded the cached features of captions and images." in text
    assert "| made | 32 | 16 | 4.7e-05 |\n" in text
    assert "preprocessing" not in text


def test_a_head_s_kind_reads_as_it_is_called(run):
    record = record_of(run)
    record["head"] |= {"kind": "adapter"}
    assert "with a head of kind adapter, trained with the loss sigmoid on" in card_text(record, WHOLE, figures=None)


HOSTILE = "<img src=x> | [a](b) ``` *c* \x1b[2J \u202e\n# d"


def test_names_of_others_are_text(run):
    record = record_of(run)
    record["run"] = record["encoder"]["model"] = record["data"]["dataset"] = record["data"]["split_rule"] = HOSTILE
    record["encoder"]["library"] = record["captions"]["prompt"] = HOSTILE
    record["training"]["settings"]["loss"] = record["commands"]["extract"] = HOSTILE
    record["images_missing"], record["remarks"] = HOSTILE, [HOSTILE]
    text = card_text(record, WHOLE, figures=None)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    # Outside code nothing of it is markup, and its code ends where it is meant to.
    prose = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", text.split("\n---\n", 1)[1], flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"(?<!\\)(<|\[|`|\*)", prose)
    assert re.findall(r"^# .*", prose, flags=re.MULTILINE) == [
        r"# \<img src=x\> \| \[a](b) \`\`\` \*c\* \x1b\[2J \u202e \# d".replace(r"\x1b", "\\\\x1b").replace(
            r"\u202e", "\\\\u202e"
        )
    ]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    # A vision transformer, which every target has a place for.
    torch.save(lively_clip("transformer").state_dict(), folder / "small.pt")
    return extracted_run(folder, model=folder / "small.pt")


# Each opens the folder in two processes: CI has one of them.
@pytest.mark.parametrize(
    "to",
    [
        pytest.param(name, marks=pytest.mark.ci if name == "open_clip" else pytest.mark.slow)
        for name in TARGETS
        if load_target(name).encoder
    ],
)
def test_what_is_exported_has_a_card_whose_lines_run_as_they_stand(whole_run, tmp_path, to):
    config = ExportConfig(run=whole_run, to=to, out=tmp_path / "exported")
    result = export(config)
    card = (config.out / "README.md").read_text(encoding="utf-8")
    record = json.loads((config.out / "clipret_export.json").read_text())
    assert record == {name: value for name, value in result.items() if name not in ("out", "seconds")}
    for text in (card, json.dumps(record)):
        assert str(whole_run.parent.parent.parent) not in text
    files = {path.relative_to(config.out).as_posix() for path in config.out.rglob("*") if path.is_file()}
    assert set(record["files"]) == files - {"clipret_export.json"}

    # Square: transformers' crop is a pixel off where what it cuts off is odd.
    with Image.open(whole_run.parent.parent / "photos/3.png") as picture:
        picture.crop((0, 0, 70, 70)).save(config.out / "photo.jpg", format="PNG")
    (code, *_) = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=config.out, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cosines = np.array(ast.literal_eval(re.sub(r"\s+", ", ", done.stdout.strip().strip("[] ")) + ","))
    opened = open_source(config, encoder=load_target(to).encoder)
    with torch.no_grad(), Image.open(config.out / "photo.jpg") as picture:
        head = opened.source.head
        images = head.embed_images(opened.encoder.image_features([picture]))
        texts = head.embed_texts(opened.encoder.text_features(["two dogs", "a red car"]))
    np.testing.assert_allclose(cosines, (images @ texts.T).numpy()[0], atol=2e-3)
