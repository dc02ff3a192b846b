"""Packages that a format, an index or a target needs."""

import importlib.util

from clipret.errors import UsageError


def require_package(package: str | tuple[str, ...] | None, *, extra: str | None, option: str) -> None:
    """Raise UsageError, with the command that installs it, where a package, or one of several, is missing."""
    for name in (package,) if isinstance(package, str) else package or ():
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{option} needs the package {name}; run: pip install 'clipret[{extra}]'")
