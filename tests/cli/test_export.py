"""clipret export on the command line."""

import json
from pathlib import Path

import pytest

from clipret.exports import TARGETS
from clipret.exports.checkpoints import stage
from tests.conftest import write_cache
from tests.helpers.exported import open_here, random_head, saved


@pytest.fixture
def head(tmp_path, monkeypatch) -> Path:
    """The head of a cache; folders are opened in this process."""
    open_here(monkeypatch)
    cache = write_cache(tmp_path / "made.h5")
    return saved(random_head(cache), cache)


def test_it_says_what_it_wrote_and_how_far_it_is_from_clipret(run, head):
    status, out, err = run("export", head, "--to", "head", "--cache", "made.h5", "--out", "out")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith(f"out has {head.name} for head, in ")
    assert [line.split()[0] for line in lines[1:4]] == ["README.md", "head.safetensors", "head_reader.py"]
    assert lines[4].startswith("Opened with numpy: 32 captions and 16 images, embeddings differ by at most ")
    assert "e-08 from clipret's" in lines[4] or "e-07 from clipret's" in lines[4]


def test_quiet_is_the_folder_alone(run, head):
    assert run("export", head, "--to", "head", "--cache", "made.h5", "--out", "out", "--quiet") == (0, "out\n", "")


def test_json_is_the_result_and_nothing_else(run, head):
    status, out, err = run("export", head, "--to", "head", "--cache", "made.h5", "--out", "out", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert (result["to"], result["out"], result["head"]["kind"]) == ("head", "out", "linear")
    assert result["verified"][0]["way"] == "numpy"


def test_an_interruption_names_the_command(run, head, monkeypatch, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "verify", interrupted)
    status, _, err = run("export", head, "--to", "head", "--cache", "made.h5", "--out", "out")
    assert status == 130
    expected = f"interrupted; start it again with: clipret export {head} --to head --out out --cache made.h5"
    assert expected in err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--to", "nowhere"], 2, f"--to is 'nowhere'; expected one of: {', '.join(TARGETS)}."),
        (["--cache", "nowhere.h5"], 1, "there is no cache at nowhere.h5"),
        (["--out", "a/b"], 2, "--out is 'a/b', but there is no folder a; make it first."),
        (["--out", "made.h5"], 1, "made.h5 is there already; give another --out, or delete it."),
    ],
)
def test_errors_are_one_line(run, head, words, status, message):
    options = {"--to": "head", "--cache": "made.h5", "--out": "out"} | {words[0]: words[1]}
    code, out, err = run("export", head, *(word for pair in options.items() for word in pair))
    assert (code, out) == (status, "")
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {message}")


def test_the_help_names_every_target(run):
    status, out, _ = run("export", "--help")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    assert all(f"{name}, {row.help}" in text for name, row in TARGETS.items())
