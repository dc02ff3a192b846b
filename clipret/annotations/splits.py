"""Which split an image is in: by the name of one, or by a hash."""

import hashlib

import numpy as np

from clipret.config import SPLITS

# Of people's own data.
OWN_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
_SPLIT_ALIASES = {
    **dict.fromkeys(("training", "trn"), "train"),
    **dict.fromkeys(("valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("testing", "tst"), "test"),
}


def split_code(name: str) -> int | None:
    """Index in config.SPLITS of a split by its name or one of its usual other names; None for an unknown one."""
    name = name.strip().lower()
    name = _SPLIT_ALIASES.get(name, name)
    return SPLITS.index(name) if name in SPLITS else None


def split_by_hash(keys, *, fractions: dict[str, float], salt: str = "clipret") -> np.ndarray:
    """Assign each key to a split by the sha256 of the key alone.

    The split of a key depends on nothing but the key, the fractions and the salt: not on the other keys, their order,
    the machine or a random state. So adding images to a data set never moves another image.

    keys       strings
    fractions  split name -> share, in order; the shares add up to 1
    salt       another salt gives another, equally fixed, split

    Returns (len(keys),) uint8, indices into config.SPLITS.
    """
    codes = [SPLITS.index(name) for name in fractions]
    edges = np.cumsum(list(fractions.values()))
    if abs(edges[-1] - 1) > 1e-9:
        raise ValueError(f"fractions {fractions} add up to {edges[-1]}, expected 1")
    # A key with half a surrogate pair gets a split too: what it is refused for is said by the reader.
    digests = [hashlib.sha256(f"{salt}:{key}".encode(errors="surrogatepass")).digest() for key in keys]
    positions = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests]
    buckets = np.searchsorted(edges[:-1], positions, side="right")
    return np.asarray(codes, dtype=np.uint8)[buckets]


def hash_rule(of: str) -> str:
    """The rule of a split by hash of people's own data, in words; of: what is hashed."""
    shares = "/".join(f"{100 * share:g}" for share in OWN_FRACTIONS.values())
    return f"hash {shares} of the images' {of}"
