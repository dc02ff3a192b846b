"""Exact ranks of both directions beside the bare matrix product and the usual ways: make bench-eval"""

import argparse

import numpy as np
import torch
from benchmark import compare

from clipret.retrieval import rank_both_directions


def main() -> None:
    """Measure on random unit vectors with five captions an image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    captions = 5 * arguments.images
    images, texts = (
        torch.nn.functional.normalize(torch.randn(rows, arguments.width, generator=generator), dim=1)
        for rows in (arguments.images, captions)
    )
    owners = np.repeat(np.arange(arguments.images), 5)
    compare(
        "eval",
        work=f"{arguments.images:,} images x {captions:,} captions x {arguments.width}, both directions",
        floor="bare product, once",
        ways={
            "bare product, once": lambda: texts @ images.T,
            "clipret, exact ranks": lambda: rank_both_directions(images, texts, caption_images=owners),
            "torch.topk 10, no ranks": lambda: [(texts @ images.T).topk(10), (images @ texts.T).topk(10)],
            "argsort": lambda: [(texts @ images.T).argsort(1), (images @ texts.T).argsort(1)],
        },
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
