"""Extraction needs no more memory for more rows, but for their names and captions."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import HELPERS

CHILD = HELPERS / "child_memory.py"


def peak_mebibytes(folder: Path, rows: int) -> float:
    """The most memory of a process that extracts so many images, with a caption each."""
    command = [sys.executable, CHILD, folder / str(rows), str(rows)]
    return float(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
@pytest.mark.parametrize(
    ("few", "most"), [(500, 1.03), pytest.param(20_000, 1.10, marks=pytest.mark.slow, id="as many as the promise says")]
)
@pytest.mark.ci
def test_ten_times_the_rows_take_the_same_memory(tmp_path, few, most):
    small, large = (peak_mebibytes(tmp_path, rows) for rows in (few, 10 * few))
    assert large < most * small, f"{few:,} rows: {small:.0f} MiB, {10 * few:,} rows: {large:.0f} MiB"
