"""What every reader needs: files that may be broken, read into values or one clear line."""

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from clipret.errors import DatasetError
from clipret.machine.files import read_file

# Of a file that is read at once: sixteen times the captions of COCO. Tables of more come as Parquet, or as CSV, which
# is read by rows.
_MOST_BYTES = 1 << 31


def read_json(path: Path, *, without: str | None = None):
    """The content of a JSON file. Raises DatasetError with line, column and byte when it cannot be read.

    without  a field that is forgotten wherever it is met, so that it takes no memory
    """
    text, mark = _decoded(_read_bytes(path), path)
    return _parsed(text, path, before=mark, without=without)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not blank. Raises DatasetError, with the line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            content = _parsed(line, path, line=number)
            if not isinstance(content, dict):
                raise DatasetError(f"{path}, line {number}: expected a JSON object, found {type(content).__name__}.")
            yield number, content


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, with or without byte order mark. Raises DatasetError with the byte that is not."""
    return text_of(_read_bytes(path), path)


def text_of(content: bytes, path: Path) -> str:
    """The text of a file whose bytes have been read, every line break a newline. Errors as those of read_text."""
    text, _ = _decoded(content, path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_of(content: bytes, path: Path):
    """The content of a JSON file whose bytes have been read. Errors as those of read_json."""
    text, mark = _decoded(content, path)
    return _parsed(text, path, before=mark)


def listed(names, *, limit: int = 5) -> str:
    """The first few names, joined by commas, with an ellipsis when there are more."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def shortened(value) -> str:
    """The value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_there(path: Path, question: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether the path is a file (or what else a method of Path asks).

    No for a path that the system will not even look at, such as one too long.
    """
    try:
        return question(path)
    except (OSError, ValueError):
        return False


def repeated(values) -> list:
    """The values that are there more than once, each once, in the order of their second appearances."""
    seen, twice = set(), {}
    for value in values:
        if value in seen:
            twice[value] = None
        seen.add(value)
    return list(twice)


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def flaw(text: str, *, one_line: bool = False) -> str | None:
    """What keeps a text out of a cache, or None: a NUL, half a surrogate pair; where one_line, a line break."""
    if "\0" in text:
        return "a NUL character"
    if one_line and ("\n" in text or "\r" in text):
        return "a line break"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"half a surrogate pair ({text[error.start]!a}), which is no character"
    return None


def _read_bytes(path: Path) -> bytes:
    try:
        return read_file(path, most=_MOST_BYTES)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None


def _decoded(content: bytes, path: Path) -> tuple[str, int]:
    """The text, and the bytes of the byte order mark before it."""
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content.decode("utf-8-sig"), mark
    except UnicodeDecodeError as error:
        # The mark is cut off before the bytes are counted.
        byte = error.start + len(content) - len(error.object)
        raise DatasetError(
            f"{path} is not UTF-8 text: byte {byte:,} is {content[byte]:#x}; save it as UTF-8 (iconv -t utf-8)."
        ) from None


def _parsed(text: str, path: Path, *, line: int | None = None, before: int = 0, without: str | None = None):
    """The content of JSON text: of one line of the file, or of all of it, behind so many bytes."""
    try:
        return json.loads(text, object_hook=None if without is None else lambda entry: _forget(entry, without))
    except json.JSONDecodeError as error:
        byte = before + len(text[: error.pos].encode())
        raise DatasetError(
            f"{path} is not JSON: {error.msg[0].lower()}{error.msg[1:]}, line {line or error.lineno}, column "
            f"{error.colno}" + ("" if line else f" (byte {byte:,})") + "; fix it, or download it again."
        ) from None
    except (ValueError, RecursionError) as error:
        # JSON by its grammar, yet beyond what is read: a whole number of over 4,300 digits, brackets a thousand deep.
        place = f", line {line}" if line else ""
        what = "it nests too deep" if isinstance(error, RecursionError) else "it has a number with too many digits"
        raise DatasetError(f"{path}{place}: {what} to be read; fix it, or download it again.") from None


def _forget(entry: dict, name: str) -> dict:
    entry.pop(name, None)
    return entry
