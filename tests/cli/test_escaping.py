"""What files and users say reaches a terminal as text, whatever is in it."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from clipret.cli.running import complain

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f"


@pytest.fixture
def table(tmp_path):
    """A table of four images whose names and captions a terminal would obey."""
    lines = ["image,caption,split"]
    for row, split in enumerate(["train", "train", "val", "test"]):
        Image.new("RGB", (72, 64), (60 * row, 90, 9)).save(tmp_path / f"{ESCAPE.replace('/', '')}{row}.png")
        lines.append(f"{ESCAPE}{row}.png,=dot {ESCAPE} [/b] {row},{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "t.csv"


def test_no_command_passes_on_what_a_terminal_obeys(run, table):
    prompt = r"\[/b] {}" + ESCAPE
    commands = [
        ("check", "--dataset", table),
        ("extract", "--dataset", table, "--model", "tiny-emoji", "--out", "t.h5", "--prompt", prompt, "--workers", 0),
        ("info", "t.h5"),
        ("info", "t.h5", "--json"),
        ("train", "--cache", "t.h5", "--epochs", 1, "--name", "r"),
        ("eval", "--head", "runs/r", "--resamples", 0, "--per-query", "q.csv"),
        ("failures", "--head", "runs/r"),
        ("failures", "--head", "runs/r", "--json"),
        ("verify", "t.h5"),
        *(
            ("compare", "runs/r", "zero-shot", "--format", form)
            for form in ("table", "json", "csv", "markdown", "latex")
        ),
    ]
    for command in commands:
        status, out, err = run(*command)
        assert status == 0, err
        assert not {"\x1b", "\x9b", "\x07", "\x7f"} & set(out + err), command
    rows = Path("q.csv").read_text(encoding="utf-8")
    assert r"'=dot \x1b]0;owned\x07\x1b[2J\x9b31m\x7f [/b] 3" in rows
    assert not {"\x1b", "\x9b", "\x7f"} & set(rows)
    best = [json.loads(row["top_ids"]) for row in csv.DictReader(rows.splitlines())]
    assert all(ESCAPE in name for names in best for name in names)


def test_a_prompt_that_looks_like_markup_is_shown_as_it_is(run, table):
    run(
        "extract", "--dataset", table, "--model", "tiny-emoji", "--out", "t.h5", "--prompt", r"\[/b] {}", "--workers", 0
    )
    status, out, _ = run("info", "t.h5")
    assert status == 0
    assert r"prompt '\[/b] {}'" in out
    status, out, _ = run("info", "t.h5", "--json")
    assert json.loads(out)["inputs"]["prompt"] == r"\[/b] {}"


def test_an_error_shows_what_it_names_written_out(run):
    status, out, err = run("check", "--dataset", f"./{ESCAPE}.csv")
    assert (status, out) == (1, "")
    assert err.startswith(r"error: there is no data set at \x1b]0;owned\x07\x1b[2J\x9b31m\x7f.csv; expected")


def test_an_error_is_a_line_whatever_lines_it_names(run):
    status, _, err = run("check", "--dataset", "./one\ntwo\r\nthree.csv")
    assert status == 1
    assert err.startswith(r"error: there is no data set at one\ntwo\r\nthree.csv; expected a folder ")
    assert err.count("\n") == 1


def test_an_error_that_names_a_long_text_keeps_its_beginning_and_its_end(capsys):
    complain(f"head {'x' * 5000} cannot be used; train it again.")
    err = capsys.readouterr().err
    assert err.startswith("error: head xxx")
    assert " [...] xxx" in err
    assert err.endswith("xxx cannot be used; train it again.\n")
    assert len(err) < 1650
