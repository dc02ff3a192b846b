"""How often intervals hold the truth, and how often tests find what is not there, on data whose truth is known.

A rank is the whole number above exp(mu + sigma x), x normal: half of its variance is an image's, which its captions
share, and half is a query's own (--alike). Every image has five captions. mu makes R@1 the rate that is asked for; all
other truths follow from it. A second head has 70 % of x in common with the first. The seeds of a training move mu.

Prints the tables of docs/statistics.md and writes build/coverage.json. Fourteen minutes on 2 CPU cores, three with
--sets 400; the same --seed gives the same figures.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from clipret.config.comparison import CompareConfig
from clipret.machine.progress import Progress
from clipret.retrieval.ranks import Ranks
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, tabulate
from clipret.statistics.significance import Heads, contrast, estimate

OUT = Path(__file__).resolve().parent.parent / "build" / "coverage.json"
SIZES = (30, 100, 376, 5000)
RATES = (0.01, 0.10, 0.50, 0.90, 0.99)
CAPTIONS, CUTS = 5, (1, 5, 10)
COLUMNS = ((0, "R@1"), (1, "R@1"), (0, "R@10"), (1, "R@10"), (0, "MRR"), (1, "MRR"), (None, "rsum"))
NAMES = ("t2i R@1", "i2t R@1", "t2i R@10", "i2t R@10", "t2i MRR", "i2t MRR", "rsum")
SIGMA = 2.0
# Of x, what two heads have in common.
COMMON = 0.7
# Of x: how much better the better head is.
GAIN = 0.2
# Further ranks add nothing to a mean of 1 / rank.
FURTHEST = 200_000


class Simulation:
    """Heads whose truth is known, on images that are drawn anew for each set.

    alike  part of the variance of x that the queries of an image share
    """

    def __init__(self, *, images: int, rate: float, alike: float = 0.5):
        self.images, self._mean, self._alike = images, -SIGMA * float(ndtri(rate)), alike
        # Of the rate: each size and rate has draws of its own.
        self.thousandths = round(1000 * rate)

    def truth(self, *, gain: float = 0.0, luck: float = 0.0) -> np.ndarray:
        """The columns (C,) of a head that is better by `gain`, over trainings whose luck has this deviation."""
        ranks = np.arange(1, FURTHEST + 1)
        up_to = ndtr((np.log(ranks) - self._mean + SIGMA * gain) / (SIGMA * np.sqrt(1 + luck**2)))
        reciprocal = np.diff(up_to, prepend=0.0) @ (1 / ranks)
        recalls = [up_to[cut - 1] for cut in CUTS]
        return np.array([recalls[0]] * 2 + [recalls[2]] * 2 + [reciprocal] * 2 + [2 * sum(recalls)])

    def draw(self, generator: np.random.Generator, *, gains: tuple) -> Evidence:
        """A head for each of the gains, which are a number or one a query, on the same images."""
        common = self._normal(generator)
        heads = [np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * self._normal(generator) - gain for gain in gains]
        rankings = []
        for head in heads:
            ranks = np.ceil(np.exp(np.minimum(self._mean + SIGMA * head, 25))).clip(min=1).astype(np.int64)
            texts, images = ranks[:-1].ravel(), ranks[-1]
            rankings.append({"t2i": (_ranking(texts, np.tile(np.arange(self.images), CAPTIONS)),)})
            rankings[-1]["i2t"] = (_ranking(images, np.arange(self.images)),)
        return Evidence(tabulate(rankings, k=CUTS, families=("R", "MRR")), COLUMNS, k=CUTS)

    def _normal(self, generator: np.random.Generator) -> np.ndarray:
        """(captions + 1, I) x of each image's captions, and of itself."""
        shared = generator.normal(size=self.images)
        own = generator.normal(size=(CAPTIONS + 1, self.images))
        return np.sqrt(self._alike) * shared + np.sqrt(1 - self._alike) * own


def cover(simulation: Simulation, *, sets: int, flips: int, seed: int) -> dict[str, np.ndarray]:
    """Shares of the sets (C,).

    `interval`, a head's holds the truth; `gain`, that of a head that is better by GAIN does; `false`, two equal heads
    come out different (p at most 0.05); `disagree`, the interval of their difference says otherwise than p.
    """
    generator, level = np.random.default_rng((seed, simulation.images, simulation.thousandths)), CompareConfig.level
    truth = simulation.truth()
    gain = simulation.truth(gain=GAIN) - truth
    counted = dict.fromkeys(("interval", "gain", "false", "disagree"), 0)
    for number in range(sets):
        evidence = simulation.draw(generator, gains=(0.0, 0.0, GAIN))
        counted["interval"] += holds(estimate(evidence, (0,), level=level), truth)
        equal, better = flip_tests(evidence, [(1, 0), (2, 0)], flips=flips, level=level, seed=number)
        counted["gain"] += holds(better, gain)
        counted["false"] += equal.p <= 1 - level
        counted["disagree"] += holds(equal, 0 * gain) != (equal.p > 1 - level)
    return {name: count / sets for name, count in counted.items()}


def cover_seeds(simulation: Simulation, *, seeds: int, luck: float, sets: int, seed: int) -> dict[str, np.ndarray]:
    """Shares of the sets (C,), of trainings whose luck has that deviation.

    `interval`, that of the mean of so many seeds holds the truth of the settings; and of equal settings come out
    different (p at most 0.05): `fixed`, these seeds and a head that no seed changes; `single`, these and one run;
    `groups`, these and as many others.
    """
    generator, level = np.random.default_rng((seed, seeds, simulation.images)), CompareConfig.level
    truth = simulation.truth(luck=luck)
    counted = dict.fromkeys(("interval", "fixed", "single", "groups"), 0)
    group, second = Heads(tuple(range(seeds))), Heads(tuple(range(seeds, 2 * seeds)))
    for _ in range(sets):
        lucks = generator.normal(0, luck, size=2 * seeds)
        # The luck of a head that stays is another for each query: so its truth is that of the settings.
        scattered = generator.normal(0, luck, size=(CAPTIONS + 1, simulation.images))
        evidence = simulation.draw(generator, gains=(*lucks, scattered))
        counted["interval"] += holds(estimate(evidence, group.members, level=level), truth)
        for name, other in (
            ("fixed", Heads((2 * seeds,), varies=False)),
            ("single", Heads((seeds,))),
            ("groups", second),
        ):
            if seeds > 1:
                counted[name] += contrast(evidence, group, other, level=level).p <= 1 - level
    return {name: count / sets for name, count in counted.items()}


def holds(estimated, truth: np.ndarray) -> np.ndarray:
    """(C,) whether an interval has the truth in it, to rounding."""
    return (estimated.low - 1e-12 <= truth) & (truth <= estimated.high + 1e-12)


def _ranking(ranks: np.ndarray, images: np.ndarray) -> Ranks:
    return Ranks(ranks, np.arange(len(ranks) + 1), FURTHEST, images=images)


def table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def percent(shares: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{100 * share:.1f}" for share in shares)


def report_metrics(args: argparse.Namespace, on_progress) -> dict:
    """Tables of figures and gains: a row for every size and rate."""
    cells = [(images, rate) for images in args.images for rate in args.rates]
    rows = {}
    for number, (images, rate) in enumerate(cells, start=1):
        simulation = Simulation(images=images, rate=rate, alike=args.alike)
        rows[images, rate] = cover(simulation, sets=args.sets, flips=args.flips, seed=args.seed)
        on_progress(Progress("sizes and rates", number, len(cells)))
    titles = {
        "interval": "Intervals that hold the truth, in percent",
        "gain": "Intervals of a gain that hold the truth, in percent",
        "false": "Tests of two equal heads that find a difference, in percent",
    }
    for name, title in titles.items():
        print(f"{title}\n")
        body = [(f"{images:,}", rate, *percent(shares[name])) for (images, rate), shares in rows.items()]
        print(table(("images", "R@1", *NAMES), body))
    disagreeing = sum(round(float(shares["disagree"].sum()) * args.sets) for shares in rows.values())
    print(
        f"Of these tests, {disagreeing:,} of {args.sets * len(rows) * len(NAMES):,} say otherwise than the interval.\n"
    )
    return {f"{images} {rate}": _plain(shares) for (images, rate), shares in rows.items()}


def report_seeds(args: argparse.Namespace, on_progress) -> dict:
    """Tables of groups of seeds: a row for every number of seeds and how much these differ."""
    cells = [(seeds, luck) for seeds in args.seeds for luck in args.lucks]
    rows = {}
    simulation = Simulation(images=args.seed_images, rate=0.5, alike=args.alike)
    for number, (seeds, luck) in enumerate(cells, start=1):
        rows[seeds, luck] = cover_seeds(simulation, seeds=seeds, luck=luck, sets=args.sets, seed=args.seed)
        on_progress(Progress("seeds", number, len(cells)))
    titles = {
        "interval": "Intervals of the mean over seeds that hold the truth of the settings, in percent",
        "fixed": "Tests of several seeds and an equal fixed head that find a difference, in percent",
        "single": "Tests of several seeds and a single run of equal settings that find a difference, in percent",
        "groups": "Tests of several seeds and as many of equal settings that find a difference, in percent",
    }
    for name, title in titles.items():
        print(f"{title}\n")
        body = [
            (seeds, luck, *percent(shares[name]))
            for (seeds, luck), shares in rows.items()
            if seeds > 1 or name == "interval"
        ]
        print(table(("seeds", "luck", *NAMES), body))
    return {f"{seeds} {luck}": _plain(shares) for (seeds, luck), shares in rows.items()}


def _plain(shares: dict[str, np.ndarray]) -> dict:
    return {
        name: dict(zip(NAMES, np.broadcast_to(values, len(NAMES)).tolist(), strict=True))
        for name, values in shares.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets of each kind")
    parser.add_argument("--flips", type=int, default=999, help="sign flips of each test")
    parser.add_argument("--images", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--alike", type=float, default=0.5, help="how alike the captions of an image are, 0 to 1")
    parser.add_argument("--seeds", type=int, nargs="*", default=(1, 2, 3, 5))
    parser.add_argument("--lucks", type=float, nargs="+", default=(0.0, 0.015, 0.05, 0.15))
    parser.add_argument("--seed-images", type=int, default=376)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    def tell(progress: Progress) -> None:
        print(f"{progress.phase} {progress.done}/{progress.total}", file=sys.stderr)

    figures = {"settings": vars(args), "metrics": report_metrics(args, tell), "seeds": report_seeds(args, tell)}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {OUT}", file=sys.stderr)


if __name__ == "__main__":
    main()
