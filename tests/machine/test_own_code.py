"""User-defined code: what is run, what is not, and the messages on errors."""

import hashlib

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
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(path, text, expected):
    assert message(path, text) == expected.format(path=path)


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
