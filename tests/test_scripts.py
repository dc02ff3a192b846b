"""The benchmarks run and leave the JSON that the README's figures can be checked with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "words", "ours"),
    [
        ("eval", ["--images", "40", "--width", "8"], "clipret, exact ranks"),
        ("train", ["--images", "64", "--batch-size", "16"], "clipret"),
        ("check", ["--share", "0.0005"], "clipret check"),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_its_figures(name, words, ours, monkeypatch):
    written = REPOSITORY / "build" / "bench" / f"{name}.json"
    kept = written.read_bytes() if written.exists() else None
    try:
        command = [sys.executable, REPOSITORY / "scripts" / f"bench_{name}.py", *words, "--rounds", "1"]
        out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
        report = json.loads(written.read_text())
    finally:
        if kept is not None:
            written.write_bytes(kept)
    assert "ratio to floor" in out
    assert set(report) == {"machine", "work", "floor_seconds", "rows"}
    assert ours in {row["name"] for row in report["rows"]}
    assert all(row["seconds"] > 0 and row["ratio_to_floor"] > 0 for row in report["rows"])
