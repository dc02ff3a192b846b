"""User-defined code: what is run, what is not, and the messages on errors."""

import hashlib
from pathlib import Path

import pytest

from clipret.errors import UsageError
from clipret.machine import own_code
from clipret.machine.own_code import changed, label, open_code, trust, word_of
from tests.helpers import own


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    own.forget(monkeypatch, tmp_path / "state")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.py"


def message(path, text, name="f"):
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        open_code(f"{path}:{name}", named=True).load()
    return str(caught.value)


def test_what_the_user_names_is_run_from_the_bytes_that_were_read(path):
    path.write_text("def f():\n    return 1")
    code = open_code(f"{path}:f", named=True)
    path.write_text("def f():\n    return 2")
    assert code.load()() == 1
    assert code.sha256 == hashlib.sha256(b"def f():\n    return 1").hexdigest()
    assert str(code) == "mine.py:f"
    assert changed(path, sha256=code.sha256) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert changed(path, sha256=code.sha256) is None


def test_a_file_runs_once_whatever_is_taken_of_it(path, tmp_path):
    path.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'runs')!r}).mkdir()\na, b = 1, 2\n")
    assert [open_code(f"{path}:{name}", named=True).load() for name in "aba"] == [1, 2, 1]


def test_what_only_a_record_names_is_not_run(path, tmp_path):
    path.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nf = 1")
    code = open_code(f"{path}:f", named=False)
    with pytest.raises(UsageError) as caught:
        code.load()
    assert str(caught.value) == (
        f"{path} came with the run and was never named by you on this machine, so it is not run; read it and, if you "
        f"trust it, allow it with: clipret trust {path}"
    )
    assert not (tmp_path / "ran").exists()
    assert trust(path) == code.sha256
    assert code.load() == 1


def test_what_was_named_once_may_be_run_by_later_processes_until_it_changes(path, monkeypatch):
    path.write_text("f = 1")
    open_code(f"{path}:f", named=True)
    monkeypatch.setattr(own_code, "_NAMED", set())
    assert open_code(f"{path}:f", named=False).load() == 1
    path.write_text("f = 2")
    with pytest.raises(UsageError, match="was never named by you on this machine"):
        open_code(f"{path}:f", named=False).load()


def test_without_a_folder_for_the_list_a_process_remembers_what_was_named_in_it(path, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    path.write_text("f = 1")
    assert open_code(f"{path}:f", named=True).load() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "{path} has no f; it defines nothing."),
        ("import math\ndef g(): ...\nclass H: ...", "{path} has no f; it defines g, H."),
        ("def f(:", "{path} cannot be run: line 1: SyntaxError: invalid syntax (mine.py, line 1)."),
        ("x = 1\nx / 0", "{path} cannot be run: line 2: ZeroDivisionError: division by zero."),
        ("import nothing", "{path} cannot be run: line 1: ModuleNotFoundError: No module named 'nothing'."),
        ("raise SystemExit", "{path} cannot be run: line 1: SystemExit."),
        ("raise GeneratorExit", "{path} cannot be run: line 1: GeneratorExit."),
        ("def __getattr__(name):\n    raise ValueError(name)", "{path} has no f; it defines __getattr__."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(path, text, expected):
    assert message(path, text) == expected.format(path=path)


def test_a_file_that_imports_one_beside_it_is_said_to_need_both_in_one(path):
    path.with_name("helpers.py").touch()
    assert message(path, "from helpers import g") == (
        f"{path} cannot be run: line 1: ModuleNotFoundError: No module named 'helpers'; a run keeps a copy of this "
        f"file alone, so it cannot import what is beside it: write both to one file."
    )


def test_a_list_that_cannot_be_written_is_said(path, tmp_path, monkeypatch):
    path.touch()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    kept = tmp_path / "file" / "clipret" / "own-code.txt"
    with pytest.raises(UsageError) as caught:
        trust(path)
    assert str(caught.value).startswith(f"{path} could not be allowed, {kept} cannot be written: ")
    assert str(caught.value).endswith("; set XDG_STATE_HOME to a folder that can be written.")
    assert "later commands will not run" in open_code(f"{path}:f", named=True).remark


def test_a_list_in_the_current_folder_allows_nothing(tmp_path, monkeypatch):
    """It would come with the run."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert own_code.list_path() == tmp_path / ".local" / "state" / "clipret" / "own-code.txt"


def test_a_path_of_a_record_that_no_file_has_is_of_no_file(path):
    assert changed(Path("a\0b"), sha256="") is None
    assert not own_code.is_unchanged(Path("a\0b"), sha256="")
    path.touch()
    assert own_code.is_unchanged(path, sha256=hashlib.sha256(b"").hexdigest())


def test_a_file_that_cannot_be_read_is_one_line(path):
    for make, expected in (
        (lambda: None, f"there is no {path}; expected a Python file that defines f."),
        (path.mkdir, f"{path} cannot be read: it is a folder, not a file; expected a Python file that defines f."),
    ):
        make()
        with pytest.raises(UsageError) as caught:
            open_code(f"{path}:f", named=True)
        assert str(caught.value) == expected


def test_an_object_is_named_by_its_file_and_is_not_made_again():
    word = word_of(own.write, what="loss")
    assert word == f"{own.__file__}:write"
    assert open_code(word, named=False).load() is own.write
    assert label(word) == "write"
    assert label("margin") == "margin"


def test_an_object_that_is_in_no_file_is_refused():
    def inner(): ...

    for value, name in ((inner, inner.__qualname__), (3, "int"), (len, "len"), (eval("lambda: 1"), "<lambda>")):
        with pytest.raises(UsageError) as caught:
            word_of(value, what="loss")
        assert str(caught.value) == (
            f"the loss {name} is not a function or class at the top of a .py file, of which the run could keep a copy; "
            f"write it to one and import it from there."
        )
