"""Importing ready-made features beside copying their files: make bench-import"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from bench_check import WORDS
from benchmark import compare, run_process

_SHARD = 1_000_000
# Seconds after files of gigabytes were removed.
_REST = 3


def write_folder(folder: Path, *, rows: int, width: int, splits: bool) -> list[Path]:
    """Embeddings as clip-retrieval writes them: float16, normalised, in shards, with a path and a caption each row."""
    generator = np.random.default_rng(0)
    words = np.array(WORDS)
    names = {"img_emb": ".npy", "text_emb": ".npy", "metadata": ".parquet"}
    for name in names:
        (folder / name).mkdir(parents=True)
    paths = []
    for number, start in enumerate(range(0, rows, _SHARD)):
        count = min(_SHARD, rows - start)
        files = {name: folder / name / f"{name}_{number}{ending}" for name, ending in names.items()}
        for name in ("img_emb", "text_emb"):
            values = generator.standard_normal((count, width), dtype=np.float32)
            values /= np.linalg.norm(values, axis=1, keepdims=True)
            np.save(files[name], values.astype(np.float16))
        picked = words[generator.integers(len(words), size=(count, 10))]
        columns = {
            "image_path": [f"{row // 10_000:05d}/{row:09d}.jpg" for row in range(start, start + count)],
            "caption": [" ".join(line) for line in picked],
        }
        if splits:
            columns["split"] = np.array(["train", "val", "test"])[np.minimum(generator.integers(10, size=count), 2)]
        parquet.write_table(pyarrow.table(columns), files["metadata"])
        paths += files.values()
    return paths


def copy_files(paths: list[Path], into: Path) -> None:
    """cp, and waiting for the disk."""
    into.mkdir()
    for path in paths:
        shutil.copyfile(path, into / path.name)
    for path in into.iterdir():
        with path.open("r+b") as file:
            os.fsync(file)


def main() -> None:
    """Measure whole processes, Python's start and imports included, over files that the system has in memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--splits", action="store_true", help="with a column of splits, rather than by a hash")
    parser.add_argument("--folder", type=Path, help="of the disk to measure on")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        # In another process: the peaks of those that this one starts begin at its own.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            sizes = {"rows": arguments.rows, "width": arguments.width, "splits": arguments.splits}
            paths = pool.apply(write_folder, (folder / "in",), sizes)
        embeddings = [path for path in paths if path.suffix == ".npy"]
        sides = ["--images", folder / "in/img_emb", "--texts", folder / "in/text_emb", "--split", "train"]
        compare_with_copying("import", embeddings, sides, arguments=arguments, folder=folder)
        compare_with_copying("import-table", paths, [folder / "in"], arguments=arguments, folder=folder)


def compare_with_copying(name: str, paths: list[Path], words: list, *, arguments, folder: Path) -> None:
    """Import these files by the command with these words, and copy them."""
    copy, out = folder / "copy", folder / "out" / "bench.h5"

    def run_import():
        return run_process(["-m", "clipret", "import", *map(str, words), "--out", str(out), "--quiet"])

    def remove():
        for made in (copy, out.parent):
            shutil.rmtree(made, ignore_errors=True)
        # The disk is told of the free blocks meanwhile, and the machine of the free memory.
        os.sync()
        time.sleep(_REST)

    size = sum(path.stat().st_size for path in paths)
    what = "embeddings" if len(words) > 1 else "embeddings, paths and captions"
    compare(
        name,
        work=f"{arguments.rows:,} rows of width {arguments.width}, {what}, {size / 1e9:.2f} GB",
        floor="cp, fsync",
        ways={"cp, fsync": lambda: copy_files(paths, copy), "clipret": run_import},
        rounds=arguments.rounds,
        prepare=remove,
    )


if __name__ == "__main__":
    main()
