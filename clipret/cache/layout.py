"""What is in a cache, and whether a file is one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from clipret.annotations import Annotations
from clipret.cache.taps import Tap
from clipret.errors import CacheFormatError, CacheMismatchError
from clipret.machine.last_blocks import LastBlock

FORMAT = 1
PENDING, DONE, UNUSABLE = 0, 1, 2
SIDES = ("image", "text")
PROBLEM_BYTES = 160
# What stands beside the features of a side: why an image has none, the sha256 of its file, whether the encoder sees one
# colour only; how many tokens a caption has. Numbers that are looked at without the features, by whose checksum they
# are covered too, are there twice: damage to one is seen.
# Imported features come without.
NOTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"image": ("problem", "sha256", "single_colour", "tap_sum"), "text": ("tokens", "tap_sum")}
)
# Those of a cache without tokens of a last block.
PLAIN_NOTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {side: tuple(name for name in names if name != "tap_sum") for side, names in NOTES.items()}
)
NO_NOTES: Mapping[str, tuple[str, ...]] = MappingProxyType({"image": (), "text": ()})
# Texts of an imported cache may be implied, or lie packed in two arrays of these endings instead of HDF5's strings.
TEXT_COLUMNS = MappingProxyType(
    {"image_ids": "image/id", "image_files": "image/file", "caption_ids": "text/id", "captions": "text/caption"}
)
PACKED = ("_bytes", "_ends")
# The input that says what imported features are; others have none.
IMPORTED = "imported"
DIGEST_BYTES = 32
# Arrays of fixed size, the only ones that change once the structure is written. All but the tap of captions and the
# last have an entry a row.
RAW = tuple(
    f"{side}/{name}"
    for side in SIDES
    for name in ("tap", "tap_scale", "features", *NOTES[side], "checksum", "state", "micro_batch")
)


@dataclass(frozen=True, kw_only=True)
class CacheContents(Annotations):
    """Annotations, and the rest of a cache but its features: all that is known before the first image is opened.

    projections  the encoder's own head: image/weight, text/weight, logit_scale and perhaps image/bias, text/bias;
                 of two encoders that were never aligned logit_scale alone
    widths       image, text -> D of the features; None: those of the projections
    dtype        float16 or float32, of the features
    inputs       JSON-ready values that decide the features' values; the fingerprint is made of them
    about        JSON-ready values to keep beside them
    notes        image, text -> what stands beside the features of that side, of NOTES
    taps         image, text -> how its tokens are stored; without the sides whose tokens are not
    blocks       the same sides -> the encoder's last block, which those tokens go into

    The texts of imported features may be ImpliedTexts or PackedTexts.
    """

    projections: dict[str, np.ndarray]
    dtype: str
    inputs: dict
    about: dict
    widths: dict[str, int] | None = None
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PLAIN_NOTES)
    taps: Mapping[str, Tap] = field(default_factory=dict)
    blocks: Mapping[str, LastBlock] = field(default_factory=dict)

    def width(self, side: str) -> int:
        """D of the features of a side."""
        return self.widths[side] if self.widths else self.projections[f"{side}/weight"].shape[0]

    @property
    def counts(self) -> dict[str, int]:
        """The rows of each side: image, text -> N, M."""
        return {"image": len(self.image_ids), "text": len(self.captions)}

    @property
    def imported(self) -> bool:
        """Whether the features were ready-made."""
        return IMPORTED in self.inputs

    @property
    def fingerprint(self) -> str:
        """sha256 over the format and the inputs."""
        return fingerprint_of(self.inputs)


def fingerprint_of(inputs: dict) -> str:
    """sha256 over the format and the inputs."""
    canonical = json.dumps({"format": FORMAT, **inputs}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


class ImportedRows:
    """What tells imported features from others, as nothing but the rows decides them: every row's checksum."""

    def __init__(self):
        self._digest = hashlib.sha256()

    def add(self, checksums: np.ndarray) -> None:
        """Add the checksums (n,) uint32 of the next rows; images come before captions."""
        self._digest.update(np.ascontiguousarray(checksums, dtype="<u4"))

    def fingerprint(self, inputs: dict) -> str:
        """sha256 over the format, the inputs and all checksums."""
        return fingerprint_of({**inputs, "rows_sha256": self._digest.hexdigest()})


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes of h5py, or of what we read with it, into a CacheFormatError."""
    try:
        yield
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CacheFormatError(f"{path} cannot be read as HDF5 ({reason}); delete it and extract again.") from None


def require_same(path: Path, *, stored: dict, asked: dict) -> None:
    """Raise CacheMismatchError, naming the differences, unless the file was made from the inputs asked for."""
    differences = [
        f"{name}: it has {stored.get(name)!r}, asked for {asked.get(name)!r}"
        for name in sorted({*stored, *asked})
        if stored.get(name) != asked.get(name)
    ]
    if differences:
        raise CacheMismatchError(
            f"{path} was made from other inputs ({'; '.join(differences)}). "
            f"Nothing was changed; give another --out, or delete it."
        )
