"""The benchmarks run and leave the JSON that the README's figures can be checked with."""

import json
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY


@pytest.mark.parametrize(
    ("name", "words", "ours", "files"),
    [
        (
            "eval",
            ["--images", "40", "--captions", "203", "--width", "8", "--no-others"],
            "clipret, exact ranks and all metrics",
            ["eval"],
        ),
        ("train", ["--images", "64", "--batch-size", "16"], "clipret", ["train"]),
        (
            "block",
            ["--images", "40", "--batch", "20"],
            "clipret",
            ["block-extraction", "block", "block-vit-b-32"],
        ),
        ("import", ["--rows", "3000", "--width", "8"], "clipret", ["import", "import-table"]),
        ("embed", ["--rows", "3000", "--width", "8", "--embedding", "4"], "clipret", ["embed", "embed-parquet"]),
        ("check", ["--share", "0.0005"], "clipret check", ["check"]),
        (
            "extract",
            ["--images", "16", "--captions", "128", "--models", "tiny-emoji"],
            "clipret extract",
            ["extract-images-tiny-emoji", "extract-captions-tiny-emoji"],
        ),
    ],
)
@pytest.mark.ci
def test_a_benchmark_prints_a_table_and_writes_its_figures(name, words, ours, files):
    written = [REPOSITORY / "build" / "bench" / f"{file}.json" for file in files]
    kept = {path: path.read_bytes() for path in written if path.exists()}
    try:
        command = [sys.executable, REPOSITORY / "scripts" / f"bench_{name}.py", *words, "--rounds", "1"]
        out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
        reports = [json.loads(path.read_text()) for path in written]
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert out.count("ratio to floor") == len(files)
    for report in reports:
        require_figures(report, ours)


def require_figures(report: dict, ours: str) -> None:
    assert set(report) == {"machine", "work", "floor_seconds", "rows"}
    assert ours in {row["name"] for row in report["rows"]}
    assert all(row["seconds"] > 0 and row["ratio_to_floor"] > 0 for row in report["rows"])
