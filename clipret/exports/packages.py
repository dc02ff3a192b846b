"""Packages that a format, an index or a target needs."""

import importlib.util

from clipret.errors import UsageError


def require_package(package: str | None, *, extra: str | None, option: str) -> None:
    """Raise UsageError, with the command that installs it, where a package is missing."""
    if package is not None and importlib.util.find_spec(package) is None:
        raise UsageError(f"{option} needs the package {package}; run: pip install 'clipret[{extra}]'")
