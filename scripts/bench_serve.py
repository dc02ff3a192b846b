"""The web service under load: searches a second, times, errors and memory, and one query beside its encoder.

make bench-serve; ARGS='--seconds 600' for ten minutes
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_extract import write_checkpoint
from benchmark import OUT

from clipret import Client, DatasetConfig, ExtractConfig, FeatureCache, extract, zero_shot
from clipret.cache import open_writer
from clipret.datasets.emoji import load_emoji
from clipret.errors import ServiceError

_WORDS = (
    "red",
    "heart",
    "face",
    "cat",
    "house",
    "sun",
    "flag",
    "hand",
    "green",
    "car",
    "tree",
    "moon",
    "clock",
    "fish",
)
_TINY = "tiny-emoji"


def grow(small: Path, large: Path, *, images: int) -> Path:
    """A cache of as many images, with a caption each, of the encoder of a small one; its features are random."""
    cache, generator = FeatureCache(small), np.random.default_rng(0)
    names = [str(row) for row in range(images)]
    contents = replace(
        cache.contents,
        image_ids=names,
        image_files=[f"{row}.png" for row in range(images)],
        image_splits=np.zeros(images, np.uint8),
        captions=[f"thing {row}" for row in range(images)],
        caption_ids=names,
        caption_images=np.arange(images),
    )
    with open_writer(large, contents) as writer:
        for start in range(0, images, 1024):
            rows = np.arange(start, min(start + 1024, images))
            drawn = {
                side: generator.standard_normal((len(rows), cache.width(side)), dtype=np.float32).astype(np.float16)
                for side in ("image", "text")
            }
            writer.write_images(rows, features=drawn["image"], problems={})
            writer.write_texts(rows, features=drawn["text"], tokens=np.full(len(rows), 4))
    return large


def first_drawings(folder: Path, *, count: int = 32) -> tuple[Path, Path]:
    """A table of the first emoji, and the folder of their drawings."""
    emoji = load_emoji(DatasetConfig(dataset="emoji"))
    rows = [f"{emoji.image_files[row]},drawing {row},train" for row in range(count)]
    table = folder / "drawings.csv"
    table.write_text("\n".join(["image,caption,split", *rows]) + "\n", encoding="utf-8")
    return table, emoji.root


class Service:
    """`clipret serve` in a process of its own."""

    def __init__(self, cache: Path, folder: Path):
        words = ["-m", "clipret", "serve", str(cache), "--port", "0", "--device", "cpu", "--quiet"]
        words += ["--marks", str(folder / "marks.csv")]
        self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[0]

    @property
    def mebibytes(self) -> float:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def close(self) -> None:
        """Stop it, as Ctrl-C does."""
        self.process.terminate()
        assert self.process.wait(30) == 0


def load(service: Service, *, images: int, clients: int, seconds: float) -> dict:
    """Clients that ask as fast as they are answered: words, sums, rows, thumbnails, captions."""
    times, errors, memory = [[] for _ in range(clients)], [], []
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        drawn, client = random.Random(number), Client(service.url)
        while time.monotonic() < end:
            kind, row = drawn.random(), drawn.randrange(images)
            started = time.perf_counter()
            try:
                if kind < 0.6:
                    client.search(" ".join(drawn.sample(_WORDS, 3)), k=30)
                elif kind < 0.7:
                    client.search(f"{drawn.choice(_WORDS)} + {drawn.choice(_WORDS)} - .5:cat", k=30, find="captions")
                elif kind < 0.8:
                    client.search(row=row, k=30)
                elif kind < 0.95:
                    client.image(row)
                else:
                    client.caption(row)
            except ServiceError as error:
                errors.append(str(error))
            times[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((round(seconds - (end - time.monotonic())), service.mebibytes))
        time.sleep(5)
    taken = np.array([one for of_client in times for one in of_client])
    after = [size for second, size in memory if second >= min(60, seconds / 2)]
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(taken),
        "per_second": round(len(taken) / seconds, 1),
        "median_ms": round(1000 * float(np.median(taken)), 2),
        "p99_ms": round(1000 * float(np.quantile(taken, 0.99)), 2),
        "errors": len(errors),
        "first_errors": errors[:3],
        "mebibytes_after_a_minute": round(after[0]),
        "mebibytes_at_the_end": round(after[-1]),
        "mebibytes_at_most": round(max(after)),
    }


def one_query(cache: Path, folder: Path, *, rounds: int = 60) -> dict:
    """Median milliseconds of a search of words, and of the encoder alone on one caption, in turn."""
    encoder = zero_shot(cache, device="cpu").encoder.backbone
    service = Service(cache, folder)
    client = Client(service.url)
    ours, alone = [], []
    for number in range(rounds):
        words = f"{_WORDS[number % len(_WORDS)]} and {_WORDS[(number * 5 + 1) % len(_WORDS)]}"
        ids = encoder.pad(encoder.tokenize([words])[0])
        started = time.perf_counter()
        encoder.encode_text(ids)
        alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        client.search(words, k=30)
        ours.append(time.perf_counter() - started)
    service.close()
    query, caption = (1000 * float(np.median(times[5:])) for times in (ours, alone))
    return {"query_ms": round(query, 2), "encoder_ms": round(caption, 2), "ratio": round(query / caption, 2)}


def main() -> None:
    """Load on the demo's data; one query on many images, with the demo's encoder and one of ViT-B/32's size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="that one query is measured on")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    report = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extract(ExtractConfig(dataset="emoji", model=_TINY, out=folder / "emoji.h5", device="cpu"))
        service = Service(folder / "emoji.h5", folder)
        images = len(FeatureCache(folder / "emoji.h5").image_states)
        report["load"] = load(service, images=images, clients=arguments.clients, seconds=arguments.seconds)
        service.close()
        print(json.dumps(report, indent=2))
        table, root = first_drawings(folder)
        for label, model in (("tiny-emoji", _TINY), ("ViT-B/32, random", str(write_checkpoint(folder / "b32.pt")))):
            small = folder / f"small-{len(report)}.h5"
            extract(ExtractConfig(dataset=str(table), root=root, model=model, out=small, device="cpu"))
            large = grow(small, folder / f"large-{len(report)}.h5", images=arguments.images)
            report[f"one query, {arguments.images:,} images, {label}"] = one_query(large, folder)
            print(json.dumps(report, indent=2))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "serve.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
