"""The bytes of image files, from disks that may fail for a while, and in one line why an image cannot be read."""

import errno
import stat
import time
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from clipret.datasets.containers import Container, container_of, split_container
from clipret.errors import DatasetError

NOT_FOUND = "file not found"
READ_ATTEMPTS = 4
# Before the second attempt, the third, and every one after that: what a network disk takes to come back.
_PAUSES_SECONDS = (0.2, 1.0, 3.0)
# What network disks and overloaded systems report for a while. Not every system knows all of them.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "ENOLINK", "ETIMEDOUT", "EAGAIN", "EINTR", "ENOBUFS", "ENFILE"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET", "ECONNABORTED"),
    )
    if hasattr(errno, name)
)
# A file is read whole before it is decoded. Nothing this long is an image that PIL would decode.
_MOST_BYTES = 2 << 30
# Bytes of a reason, which the cache keeps in a column of fixed width.
_REASON_BYTES = 150
# Errors of PIL whose text says all there is to say; the text of others, such as KeyError's, needs their name before it.
_TELLING = (OSError, SyntaxError, ValueError, EOFError, DatasetError)


def read_file(name: str, *, root: Path, attempts: int = READ_ATTEMPTS) -> bytes:
    """All bytes of an image file of a data set.

    name      path relative to root, or FILE.tar/MEMBER, as in datasets.RetrievalDataset
    attempts  how often an error that may pass, as those of network disks, is met before it is raised

    Raises OSError when there is no such file, it is no regular one, is empty or above 2 GiB, or cannot be read;
    DatasetError when it is in a container, such as a tar file, that is damaged.
    """
    container = container_of(name)
    for attempt in range(1, attempts + 1):
        try:
            content = _member(container, name, root=root) if container else _file(root / name)
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            if attempt == attempts:
                raise OSError(error.errno, f"{error.strerror}{_counted(attempts)}") from error
            time.sleep(_PAUSES_SECONDS[min(attempt, len(_PAUSES_SECONDS)) - 1])
        else:
            break
    if not content:
        raise OSError("empty file")
    return content


def reason_of(error: Exception) -> str:
    """Why an image cannot be read: one line of at most 150 bytes, without control characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in _reason(error))
    return " ".join(text.split()).encode()[:_REASON_BYTES].decode(errors="ignore")


def _file(path: Path) -> bytes:
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise OSError("a folder, not a file")
    # Opening a pipe would wait for its writer, and a device may never end.
    if not stat.S_ISREG(state.st_mode):
        raise OSError("not a regular file")
    _require_bearable(state.st_size)
    with path.open("rb", buffering=0) as file:
        return file.read()


def _member(container: Container, name: str, *, root: Path) -> bytes:
    folder, member = split_container(name)
    path = root / folder
    try:
        *_, size = container.index(path).get(member, (0,))
    except DatasetError as error:
        # Of what the system says, the number tells whether it may pass.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    _require_bearable(size)
    return container.read(path, member)


def _require_bearable(size: int) -> None:
    if size > _MOST_BYTES:
        raise OSError(f"too large: {size:,} bytes, more than {_MOST_BYTES:,}")


def _counted(attempts: int) -> str:
    return f" (after {attempts} attempts)" if attempts > 1 else ""


def _reason(error: Exception) -> str:
    reasons = {
        FileNotFoundError: NOT_FOUND,
        PermissionError: "permission denied",
        MemoryError: "not enough memory to decode",
        UnidentifiedImageError: "not an image that PIL knows",
    }
    for kind, text in reasons.items():
        if isinstance(error, kind):
            return text
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {text.partition(', could')[0]}"
    if text.startswith("image file is truncated") or text == "Truncated File Read":
        return "truncated file"
    return text if text and isinstance(error, _TELLING) else f"{type(error).__name__}: {text}"
