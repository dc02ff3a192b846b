"""What a command line says of an error that no stage has put into words: the system's refusals, and bugs of ours."""

import errno
import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

BUG = 70
_NEXT = {
    errno.EACCES: "give yourself the permission, or name another path",
    errno.EPERM: "give yourself the permission, or name another path",
    errno.ENOSPC: "make room, then start the same command again",
    errno.EDQUOT: "make room, then start the same command again",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "allow more open files with: ulimit -n 4096",
    errno.ENFILE: "close other programs, then start the same command again",
    errno.ENOMEM: "make memory free, or use smaller batches",
    errno.ELOOP: "expected a file; the links of this path lead to each other",
    errno.ENOTDIR: "expected a folder before the last part of the path",
    errno.EISDIR: "expected a file",
    errno.ENOENT: "expected a file or folder that is there",
}
_LIBRARIES = ("clipret", "torch", "numpy", "h5py", "typer", "rich")


def explain_system_error(error: OSError) -> tuple[str, int]:
    """The line for an error of the operating system, and the exit status: the path, what went wrong, what to do."""
    if error.errno == errno.ENAMETOOLONG:
        # What asking for a file of such a name ends in: the command line is wrong, not the disk.
        return f"path too long: {error.filename}", 2
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    place = " and ".join(names) or "standard output, or a file that the system does not name"
    reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    advice = _NEXT.get(error.errno, "once that is fixed, start the same command again")
    return f"{place}: {reason}; {advice}.", 1


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory, the machine's or the device's, did not do: torch says it in a RuntimeError, the loader of
    libraries in an ImportError."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text))
        or (isinstance(error, ImportError) and ("failed to map segment" in text or "annot allocate memory" in text))
    )


def explain_memory_error(error: Exception) -> str:
    """The line for a process that ran out of memory."""
    reason = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    return f"out of memory{f' ({reason})' if reason else ''}; make memory free, or use smaller batches or blocks."


def report_bug(error: Exception, *, arguments: list[str]) -> str:
    """Write the traceback, the command and the versions to a file of its own; return the line that names it."""
    summary = (traceback.format_exception_only(error) or [""])[-1].strip().replace("\n", " ")[:200]
    said = f"this is a bug in clipret: {summary}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="clipret-bug-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_details(error, arguments=arguments))
    except OSError as refusal:
        return f"{said}; its details could not be written ({refusal.strerror}). Please report this line."
    return f"{said}; please report it with {path}, which names your files: look through it."


def open_closed_streams() -> None:
    """Point standard streams that came closed to nowhere, else the next file opened would take their number, and what
    is printed would be written into it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free, which is that of the stream.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def silence(stream) -> None:
    """Let nothing more be written to a stream that refuses it, so that Python's own last flush does not complain."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _details(error: Exception, *, arguments: list[str]) -> str:
    versions = [f"{name} {_version(name)}" for name in _LIBRARIES]
    lines = [
        f"command: clipret {shlex.join(arguments)}",
        f"versions: {', '.join(versions)}",
        f"python: {sys.version.split()[0]} on {platform.platform()}",
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
