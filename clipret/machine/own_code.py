"""User-defined code in Python files: read once, run only if the user named the file, recognised by its sha256.

A loss or a head may be FILE.py:NAME. Naming a file, on the command line or in a config, is the permission to run it:
`open_code(..., named=True)`. The sha256 of the file is then added to a list in the user's folder (list_path).

A run's folder has a copy of the file, and a folder may come from anybody. So a file that a record names is run only if
its sha256 is on that list: evaluating or resuming a foreign folder never runs code from it. The user who trained the
run needs nothing more on that machine, even if the file or the folder was moved. Elsewhere `clipret trust FILE` (trust)
adds the file to the list, after the user has read it.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipret.errors import ClipretError, UsageError
from clipret.machine.files import read_file, require_file

# What the names of modules begin with that are such a file.
OWN_MODULE = "clipret_own_"
# Size limit of a file; a loss or a head has about a thousandth of that.
_MOST_BYTES = 1 << 20
_MOST_LIST_BYTES = 1 << 24
# Objects passed directly in this process, by the sha256 of their file and their name. The file may be the running
# script, so it must not be run again.
_OBJECTS: dict[tuple[str, str], Any] = {}
# sha256 of files named in this process, as the list may not be writable.
_NAMED: set[str] = set()


@dataclass(frozen=True)
class OwnCode:
    """A name in a Python file. The file's bytes in memory are the ones that are run and copied.

    path    of the file, absolute
    remark  what the user should know who named it: that later processes will not know it; empty: they will
    """

    path: Path
    name: str
    source: bytes = field(repr=False)
    remark: str = field(default="", compare=False)

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes, in hexadecimal."""
        return hashlib.sha256(self.source).hexdigest()

    def __str__(self) -> str:
        """For messages, such as my_heads.py:MLP."""
        return f"{self.path.name}:{self.name}"

    def load(self) -> Any:
        """Run the file and return the object of that name. Raises UsageError, in one line, when that fails."""
        if (self.sha256, self.name) in _OBJECTS:
            return _OBJECTS[self.sha256, self.name]
        if self.sha256 not in _NAMED | _listed():
            raise UsageError(
                f"{self.path} came with the run and was never named by you on this machine, so it is not run; read it "
                f"and, if you trust it, allow it with: clipret trust {shlex.quote(str(self.path))}"
            )
        module_name = f"{OWN_MODULE}{self.sha256[:16]}"
        values = vars(sys.modules.get(module_name) or self._run(module_name))
        if self.name in values:
            return values[self.name]
        kinds = (type, type(_read))
        names = [name for name, value in values.items() if isinstance(value, kinds) and value.__module__ == module_name]
        raise UsageError(f"{self.path} has no {self.name}; it defines {', '.join(names) or 'nothing'}.")

    def _run(self, module_name: str) -> Any:
        spec = importlib.util.spec_from_loader(module_name, loader=None, origin=str(self.path))
        module = importlib.util.module_from_spec(spec)
        module.__file__ = str(self.path)
        # dataclasses and others look up their module here.
        sys.modules[module_name] = module
        try:
            exec(compile(self.source, str(self.path), "exec"), vars(module))
        except BaseException as error:
            sys.modules.pop(module_name, None)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UsageError(f"{self.path} cannot be run: {self.explain(error)}{self._sibling(error)}.") from None
        return module

    @contextlib.contextmanager
    def guarded(self, kind: type[ClipretError], what: str, *, expected: str = "") -> Iterator[None]:
        """Inside, the file's code may run: whatever it raises becomes an error of this kind, in one line.

        An exit as well, which would otherwise end the command without a word.

        what      that fails, as the message begins
        expected  how the message ends
        """
        try:
            yield
        except (KeyboardInterrupt, ClipretError):
            raise
        except BaseException as error:
            raise kind(f"{what} failed, {self.explain(error)}{f'; {expected}' if expected else ''}.") from None

    def explain(self, error: BaseException) -> str:
        """An error in the file's code: line, type and the first line of its text."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        try:
            text = (str(error).splitlines() or [""])[0].removesuffix(".")
        except Exception:
            # The text of an error is the file's code too.
            text = ""
        return f"{f'line {line}: ' if line else ''}{type(error).__name__}{f': {text}' if text else ''}"

    def _sibling(self, error: BaseException) -> str:
        """What more is said where the file imports another that is beside it."""
        name = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if not name or not any((self.path.parent / place).exists() for place in (name, f"{name}.py")):
            return ""
        return "; a run keeps a copy of this file alone, so it cannot import what is beside it: write both to one file"


def label(word: str) -> str:
    """A short name of a loss or a head: a built-in name unchanged, or the NAME of FILE.py:NAME."""
    return word.rpartition(":")[2]


def open_code(word: str, *, named: bool) -> OwnCode:
    """Read the file of FILE.py:NAME.

    named  whether the user names it here, which permits running it; False: a record names it

    Raises UsageError when the file cannot be read.
    """
    path, _, name = word.rpartition(":")
    code = OwnCode(Path(path).absolute(), name, _read(Path(path), name=name))
    problem = _allow(code.sha256) if named else None
    if problem is None:
        return code
    remark = (
        f"that {code.path.name} is yours could not be noted, {problem}; later commands will not run the run's copy "
        f"until XDG_STATE_HOME is a folder that can be written and the copy is allowed with clipret trust"
    )
    return replace(code, remark=remark)


def word_of(value: Any, *, what: str) -> str:
    """FILE.py:NAME of a function or class; load then returns the same object.

    what  loss or head, for messages

    Raises UsageError when it is not defined at the top level of a file, as a run keeps a copy of that file.
    """
    try:
        path = Path(inspect.getsourcefile(value) or "")
    except TypeError:
        path = Path()
    name = getattr(value, "__qualname__", "")
    if path.suffix != ".py" or not path.is_file() or not name.isidentifier():
        raise UsageError(
            f"the {what} {name or type(value).__name__} is not a function or class at the top of a .py file, of which "
            f"the run could keep a copy; write it to one and import it from there."
        )
    code = open_code(f"{path.absolute()}:{name}", named=True)
    _OBJECTS[code.sha256, name] = value
    return f"{code.path}:{name}"


def changed(path: Path, *, sha256: str) -> str | None:
    """The sha256 that a file has now, if it can be read and has another one than this."""
    actual = _sha256(path)
    return None if actual == sha256 else actual


def is_unchanged(path: Path, *, sha256: str) -> bool:
    """Whether a file is there, can be read and has this sha256."""
    return _sha256(path) == sha256


def trust(path: Path) -> str:
    """Allow a file's bytes, as they are now, to be run; returns their sha256.

    Raises UsageError when the file cannot be read, or the list cannot be written: nobody would know later.
    """
    sha256 = hashlib.sha256(_read(path, name="")).hexdigest()
    if problem := _allow(sha256):
        raise UsageError(f"{path} could not be allowed, {problem}; set XDG_STATE_HOME to a folder that can be written.")
    return sha256


def list_path() -> Path | None:
    """The path of the list of files that may be run, one sha256 per line; None if the user has no home folder."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        # As its specification says, a relative one is ignored: the list would come with whatever folder one is in.
        state = state if state.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return state / "clipret" / "own-code.txt" if state.is_absolute() else None


def _allow(sha256: str) -> str | None:
    """Note it for this process and for later ones; returns why those will not know it, None: they will."""
    _NAMED.add(sha256)
    path = list_path()
    if path is None:
        return "you have no home folder"
    if sha256 in _listed():
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # Opening a pipe would wait for a reader.
            require_file(path)
        with path.open("a", encoding="ascii") as file:
            file.write(f"{sha256}\n")
    except OSError as error:
        return f"{path} cannot be written: {error.strerror or error}"
    return None


def _listed() -> set[str]:
    path = list_path()
    try:
        return set(read_file(path, most=_MOST_LIST_BYTES).decode("ascii", "replace").split()) if path else set()
    except OSError:
        return set()


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_file(path, most=_MOST_BYTES)).hexdigest()
    except (OSError, ValueError):
        # A record may name anything: no path has a NUL character.
        return None


def _read(path: Path, *, name: str) -> bytes:
    wanted = f" that defines {name}" if name else ""
    try:
        return read_file(path, most=_MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}; expected a Python file{wanted}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; expected a Python file{wanted}.") from None
