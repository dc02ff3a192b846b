"""Scripts, imported as they import each other."""

import importlib

import pytest

from tests.helpers import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    return importlib.import_module
