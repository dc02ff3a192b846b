import hashlib
import json
import sys

from clipret.machine import own_code
from tests.helpers import own


def test_a_file_is_allowed_by_naming_it(run, tmp_path, monkeypatch):
    own.forget(monkeypatch, tmp_path / "state")
    own.write(tmp_path)
    status, out, err = run("trust", "my_heads.py", "my_losses.py")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["my_heads.py", "my_losses.py"]
    assert all(line.endswith(" may be run.") for line in lines)
    assert len((tmp_path / "state" / "clipret" / "own-code.txt").read_text().split()) == 2


def test_json_has_the_checksum_of_every_file(run, tmp_path, monkeypatch):
    own.forget(monkeypatch, tmp_path / "state")
    own.write(tmp_path)
    status, out, err = run("trust", "my_heads.py", "--json")
    sha256 = hashlib.sha256((tmp_path / "my_heads.py").read_bytes()).hexdigest()
    assert (status, json.loads(out), err) == (0, {"my_heads.py": sha256}, "")


def test_what_own_code_prints_is_not_among_the_results(run, tmp_path, monkeypatch, cache_path):
    own.forget(monkeypatch, tmp_path / "state")
    said = "\nprint('said')\n"
    own.write(tmp_path, loss=own.SOFT_MARGIN + said, head=own.MLP + said)
    words = ("--loss", "my_losses.py:soft_margin", "--head", "my_heads.py:MLP", "--epochs", 1, "--name", "r")
    for command in (
        ("train", "--cache", cache_path, *words, "--json"),
        ("train", "--config", "runs/r", "--json"),
        ("eval", "--head", "runs/r", "--resamples", 0, "--json"),
    ):
        for name in [name for name in sys.modules if name.startswith(own_code.OWN_MODULE)]:
            del sys.modules[name]
        status, out, err = run(*command)
        assert (status, "said" in err) == (0, True)
        assert json.loads(out)


def test_a_file_that_is_not_there_is_one_line(run, tmp_path, monkeypatch):
    own.forget(monkeypatch, tmp_path / "state")
    assert run("trust", "nothing.py") == (2, "", "error: there is no nothing.py; expected a Python file.\n")


def test_a_head_that_has_changed_is_named_on_the_command_line(run, tmp_path, monkeypatch, cache_path):
    own.forget(monkeypatch, tmp_path / "state")
    own.write(tmp_path)
    words = ("--loss", "my_losses.py:soft_margin", "--head", "my_heads.py:MLP", "--epochs", 2, "--batch-size", 16)
    status, out, _ = run("train", "--cache", cache_path, *words)
    assert status == 0
    assert "runs/0001-soft_margin-MLP" in out
    assert "Note" not in run("eval", "--wise-ft", "0.5")[1]
    (tmp_path / "my_heads.py").write_text("# another")
    status, out, _ = run("eval")
    assert status == 0
    assert f"Note: {tmp_path}/my_heads.py has changed since runs/0001-soft_margin-MLP was trained (sha256 " in out
    own.forget(monkeypatch, tmp_path / "other")
    status, _, err = run("eval")
    assert status == 2
    assert err.endswith("/runs/0001-soft_margin-MLP/own_head.py\n")
    assert run("trust", err.split()[-1])[0] == 0
    assert run("eval")[0] == 0
