"""A small cache, and blocks so small that it has several."""

import numpy as np
import pytest

from clipret import FeatureCache
from clipret.exports.embeddings import outputs, rows, stage
from tests.helpers.embedded import embedded_by_hand


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Seven rows a block, recorded after every one."""
    spans = rows.Selection.spans
    monkeypatch.setattr(rows.Selection, "spans", lambda selection: spans(selection, block=7))
    monkeypatch.setattr(outputs, "SECONDS_BETWEEN_RECORDS", 0.0)
    assert stage.Selection is rows.Selection


@pytest.fixture
def expected(cache_path) -> dict[str, np.ndarray]:
    """image, text -> embeddings by numpy, float64."""
    cache = FeatureCache(cache_path)
    return {side: embedded_by_hand(cache, side) for side in ("image", "text")}
