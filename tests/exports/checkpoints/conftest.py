"""A small encoder's cache of photographs with a head."""

from pathlib import Path

import pytest
import torch

from tests.conftest import random_clip
from tests.helpers.exported import extracted, open_here, random_head, saved


@pytest.fixture(scope="session")
def vit_cache(tmp_path_factory) -> Path:
    """By a vision transformer whose projections are square, so that they can be transposed. Not to be changed."""
    folder = tmp_path_factory.mktemp("vit")
    torch.save(random_clip("transformer", embedding=64).state_dict(), folder / "vit.pt")
    cache = extracted(folder, model=folder / "vit.pt")
    saved(random_head(cache), cache, name="linear.safetensors")
    saved(random_head(cache, kind="adapter"), cache, name="adapter.safetensors")
    return cache


@pytest.fixture
def here(monkeypatch) -> list[list[str]]:
    """Folders are opened in this process."""
    return open_here(monkeypatch)
