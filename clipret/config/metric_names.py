"""Which metrics are shown: the words that a user names them by."""

from clipret.config.checks import check_count, shortened
from clipret.errors import UsageError

# Families of metrics, with an @K in their names and without; metrics.py says what they are.
METRICS_AT_K = ("R", "mAP", "mAP_hits", "mAP_all", "recall", "nDCG")
METRICS = (*METRICS_AT_K, "MRR", "R-Precision", "mAP@R", "mean_rank", "median_rank")
# Those that training measures after every epoch.
VALIDATION_METRICS = ("R", "mAP", "median_rank")
# Texts ask for images, and images for texts.
DIRECTIONS = ("t2i", "i2t")
LOWER_IS_BETTER = ("mean_rank", "median_rank")
RSUM = "rsum"
# Of no gallery.
_MOST_CUT = 1_000_000_000
# Of either, of which each is measured and kept.
_MOST_NAMES = 100


def check_cuts(cuts: tuple[int, ...]) -> tuple[int, ...]:
    """The K in ascending order, each once. Raises UsageError."""
    if not cuts or not all(1 <= cut <= _MOST_CUT for cut in cuts):
        given = shortened(",".join(map(str, cuts))) or "nothing"
        raise UsageError(f"--k is {given}; expected whole numbers from 1 to {_MOST_CUT:,}, such as 1,5,10.")
    check_count("k", len(set(cuts)), most=_MOST_NAMES)
    return tuple(sorted(set(cuts)))


def check_metrics(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words, each once: names with their K, families without, names that have none, and rsum. Raises UsageError."""
    if not words:
        raise UsageError("--metrics is nothing; expected names, such as R@1,R@10,rsum.")
    check_count("metrics", len(words), most=_MOST_NAMES)
    for word in words:
        if word not in (*METRICS, RSUM) and (cut_of(word) is None or family_of(word) not in METRICS_AT_K):
            raise UsageError(
                f"--metrics has '{word}'; expected of: {', '.join((*METRICS, RSUM))}; the first {len(METRICS_AT_K)} "
                f"also with a K, such as R@1."
            )
    return tuple(dict.fromkeys(words))


def columns(words: tuple[str, ...], *, k: tuple[int, ...]) -> tuple[str, ...]:
    """The metrics' names, families written out at every K: such as R@1, R@5, R@10, rsum."""
    names = []
    for word in words:
        names += [f"{word}@{cut}" for cut in k] if word in METRICS_AT_K else [word]
    return tuple(dict.fromkeys(names))


def family_of(name: str) -> str:
    """R of R@1 and of rsum; a name without a K is a family itself."""
    if name == RSUM:
        return "R"
    return name if cut_of(name) is None else name.rpartition("@")[0]


def cut_of(name: str) -> int | None:
    """The K of a name; None: it has none."""
    cut = name.rpartition("@")[2]
    if "@" not in name or not cut.isascii() or not cut.isdecimal() or len(cut) > len(str(_MOST_CUT)):
        return None
    return int(cut) if 0 < int(cut) <= _MOST_CUT else None
