"""Packages that encoders need and clipret does not install by itself."""

import importlib.metadata

from clipret.errors import BackboneError


def require_packages(packages: tuple[str, ...], *, name: str, extra: str | None) -> None:
    """Raise BackboneError, with the command that installs them, where one of the packages is missing.

    packages  as pip calls them
    name      of the model that needs them, as given to --model
    extra     of this package, that installs them
    """
    missing = [package for package in packages if version_of(package) is None]
    if missing:
        raise BackboneError(
            f"--model {name} needs {' and '.join(missing)}; install with: pip install 'clipret[{extra}]'"
        )


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
