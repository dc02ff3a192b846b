"""What the card says, and that none of it is markup of somebody else's."""

import re

import pytest

from clipret.exports.checkpoints.card.text import card_text, read_figures
from tests.helpers.exported import HEAD_ONLY, WHOLE, record_of


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
    text = section(card_text(record_of(run), HEAD_ONLY, figures=None), "How to use it")
    assert text == (
        '```python\nimport made\n\nimages, texts = made.load("./made.bin").embed(pictures, captions)\n```\n\n'
    )


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
