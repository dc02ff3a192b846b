"""Names of metrics as users give them."""

from clipret.config.checks import check_count, shortened
from clipret.errors import UsageError
from clipret.metrics import METRICS, MOST_CUT, RSUM, cut_of, family_of, with_k

# Text queries over images, and image queries over texts.
DIRECTIONS = ("t2i", "i2t")
# The most metrics, or K, at once.
_MOST_NAMES = 100


def check_cuts(cuts: tuple[int, ...]) -> tuple[int, ...]:
    """The K in ascending order, without duplicates. Raises UsageError."""
    if not cuts or not all(1 <= cut <= MOST_CUT for cut in cuts):
        text = shortened(",".join(map(str, cuts))) or "nothing"
        raise UsageError(f"--k is {text}; expected whole numbers from 1 to {MOST_CUT:,}, such as 1,5,10.")
    check_count("k", len(set(cuts)), most=_MOST_NAMES)
    return tuple(sorted(set(cuts)))


def check_metrics(words: tuple[str, ...]) -> tuple[str, ...]:
    """Check names: with a K (R@1), families without K (R), metrics that have none, rsum. Returns them without
    duplicates. Raises UsageError."""
    if not words:
        raise UsageError("--metrics is nothing; expected names, such as R@1,R@10,rsum.")
    check_count("metrics", len(words), most=_MOST_NAMES)
    for word in words:
        if word not in (*METRICS, RSUM) and (cut_of(word) is None or family_of(word) not in with_k()):
            raise UsageError(
                f"--metrics has '{word}'; expected some of: {', '.join((*METRICS, RSUM))}; also with a K, such as "
                f"R@1: {', '.join(with_k())}."
            )
    return tuple(dict.fromkeys(words))


def columns(words: tuple[str, ...], *, k: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the metrics, with families expanded at every K: such as R@1, R@5, R@10, rsum."""
    names = []
    for word in words:
        names += [f"{word}@{cut}" for cut in k] if word in with_k() else [word]
    return tuple(dict.fromkeys(names))
