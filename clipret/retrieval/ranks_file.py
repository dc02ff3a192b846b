"""Files of ranks next to metrics.json, from which intervals and comparisons are computed.

A ranks.safetensors holds, for every protocol, fold and direction, the image of each query and the ranks under every
head. It also describes the trained head: its settings, the digest of its file, and the leakage found. So no other file
has to exist, or be unchanged, later.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from clipret import runs
from clipret.config import DIRECTIONS, TrainConfig
from clipret.config.checks import check_settings, shortened
from clipret.config.comparison import BASELINES, ZERO_SHOT
from clipret.config.evaluation import WISE_FT
from clipret.errors import RunError, UsageError
from clipret.machine.files import read_file
from clipret.machine.records import AtLeast, Each, Maybe, RecordError, parse_record, record_text
from clipret.machine.tensors import TensorFile, TensorsError, open_tensors, write_safetensors
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.scorings import SCORINGS, scored_name

FORMAT = 2
_TRAINED = "trained"
# In bytes; far more than the head of any existing encoder.
_MOST_HEAD = 1 << 32
_SIDE = {"queries": AtLeast(0), "gallery": AtLeast(1)}
# The form of the JSON stored with the ranks.
_FORM = {
    "cache": {"path": str, "fingerprint": str, "model": str},
    "trained": (
        {
            "head": str,
            "sha256": str,
            "run": (str, None),
            "config": (Each(Any), None),
            "fingerprint": (str, None),
            "finished": (bool, None),
        },
        None,
    ),
    "protocols": [
        {
            "protocol": {
                "name": str,
                "split": str,
                "images": AtLeast(1),
                "captions": AtLeast(1),
                "folds": AtLeast(1),
                "remarks": [str],
                "digest": str,
                "precision": str,
                **{direction: Maybe(_SIDE) for direction in DIRECTIONS},
            },
            "leakage": ({"checked": bool, "trained_on": (int, None)}, None),
            "heads": [str],
        }
    ],
}


@dataclass(frozen=True)
class ProtocolRankings:
    """The ranks of one protocol.

    protocol  as in metrics.json, with `digest`: equal digests mean the same queries, items and matches
    heads     name of head (zero-shot or closed-form, trained ...) -> direction -> Ranks of each fold, with images.
              By another scoring than cosine its name is that of scorings.scored_name: trained nnn
    leakage   as in metrics.json; None for the baseline only
    """

    protocol: dict
    heads: dict[str, dict[str, tuple[Ranks, ...]]]
    leakage: dict | None = None


@dataclass(frozen=True)
class Trained:
    """The trained head that was evaluated.

    head         path of its file at that time
    sha256       of that file
    run          path of the run's folder at that time; None: the head belonged to no run
    config       the run's settings (fields of TrainConfig); None without a run, and of a soup
    fingerprint  of the cache that the run was trained on; None without a run
    finished     whether the run was complete; None without a run
    """

    head: str
    sha256: str
    run: str | None = None
    config: dict | None = None
    fingerprint: str | None = None
    finished: bool | None = None


@dataclass(frozen=True)
class Rankings:
    """The ranks of one evaluation.

    cache      path, fingerprint, model, dataset, as in metrics.json
    protocols  in the order of metrics.json
    trained    None for the baseline only
    """

    cache: dict
    protocols: tuple[ProtocolRankings, ...]
    trained: Trained | None = None


def head_digest(path: Path) -> str:
    """The sha256 of a head's file, for Trained.sha256. Raises RunError."""
    try:
        return hashlib.sha256(read_file(path, most=_MOST_HEAD)).hexdigest()
    except OSError as error:
        raise RunError(f"head {path} cannot be read: {runs.reason(error)}.") from None


def rankings_path(metrics: Path) -> Path:
    """The path of the ranks of a metrics file: next to it."""
    return metrics.with_name(runs.RANKS if metrics.name == runs.METRICS else f"{metrics.stem}.{runs.RANKS}")


def write_rankings(path: Path, rankings: Rankings) -> None:
    """Write rankings atomically. Raises OSError."""
    tensors = {}
    for number, ranked in enumerate(rankings.protocols):
        for head, directions in ranked.heads.items():
            for direction, folds in directions.items():
                for fold, ranks in enumerate(folds):
                    place = f"{number}/{fold}/{direction}"
                    tensors[f"{place}/images"] = np.asarray(ranks.images, dtype=np.int32)
                    tensors[f"{place}/offsets"] = np.asarray(ranks.offsets, dtype=np.int64)
                    tensors[f"{place}/gallery"] = np.array([ranks.gallery], dtype=np.int64)
                    tensors[f"{place}/ranks/{head}"] = np.asarray(ranks.ranks, dtype=np.int32)
    about = {
        "format": FORMAT,
        "cache": rankings.cache,
        "trained": asdict(rankings.trained) if rankings.trained else None,
        "protocols": [
            {"protocol": ranked.protocol, "leakage": ranked.leakage, "heads": list(ranked.heads)}
            for ranked in rankings.protocols
        ],
    }
    text = record_text(about)
    metadata = {"clipret": text, "sha256": _digest(text, tensors)}
    write_safetensors(path, save(tensors), metadata=metadata)


def read_rankings(path: Path) -> Rankings:
    """Read a file of write_rankings. Raises FileNotFoundError, and RunError when it is another file or inconsistent."""
    try:
        file = open_tensors(path)
        text = file.metadata.get("clipret", "{}")
        about = parse_record(text, _FORM, version=FORMAT)
        _require_structure(about, file)
        tensors = file.read_arrays()
        if file.metadata.get("sha256") != _digest(text, tensors):
            raise TensorsError("its checksum does not match")
        protocols = tuple(_protocol(tensors, number, entry) for number, entry in enumerate(about["protocols"]))
        for protocol in protocols:
            _require_ranks(protocol)
        trained = about["trained"]
        if trained and trained["config"]:
            check_settings(TrainConfig, trained["config"])
    except FileNotFoundError:
        raise
    except (OSError, TensorsError, RecordError, UsageError) as error:
        raise RunError(f"{path} cannot be read: {runs.reason(error)}; measure again with: clipret eval") from None
    return Rankings(about["cache"], protocols, Trained(**trained) if trained else None)


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]))
    return digest.hexdigest()


def _protocol(tensors: dict[str, np.ndarray], number: int, entry: dict) -> ProtocolRankings:
    def ranks(place: str, head: str) -> Ranks:
        return Ranks(
            ranks=tensors[f"{place}/ranks/{head}"].astype(np.int64),
            offsets=tensors[f"{place}/offsets"],
            gallery=int(tensors[f"{place}/gallery"][0]),
            images=tensors[f"{place}/images"].astype(np.int64),
        )

    folds = range(entry["protocol"]["folds"])
    heads = {
        head: {side: tuple(ranks(f"{number}/{fold}/{side}", head) for fold in folds) for side in DIRECTIONS}
        for head in entry["heads"]
    }
    return ProtocolRankings(entry["protocol"], heads, entry["leakage"])


def _require_structure(about: dict, file: TensorFile) -> None:
    """Raise RecordError unless the tensors are those that the JSON describes, with the right dtypes and shapes."""
    entries = about["protocols"]
    names = [entry["protocol"]["name"] for entry in entries]
    if not names or len(set(names)) < len(names):
        raise RecordError("protocols is empty, or names one twice")
    for entry in entries:
        _require_heads(entry["heads"], trained=about["trained"] is not None, first=entries[0]["heads"])
    # Counted before looping over them: the number of folds in the file may be huge.
    tensors = sum(entry["protocol"]["folds"] * len(DIRECTIONS) * (3 + len(entry["heads"])) for entry in entries)
    if tensors != len(file.shapes):
        raise RecordError(f"it has {len(file.shapes):,} tensors; expected {tensors:,}")
    for number, entry in enumerate(entries):
        for fold in range(entry["protocol"]["folds"]):
            for direction in DIRECTIONS:
                _require_shapes(file, f"{number}/{fold}/{direction}", heads=entry["heads"])


def _require_heads(heads: list[str], *, trained: bool, first: list[str]) -> None:
    baseline = next((name for name in BASELINES if name in heads), ZERO_SHOT)
    expected = {baseline, *([_TRAINED] if trained else [])}
    scored = {scored_name(head, scoring) for head in heads for scoring in SCORINGS}
    others = {head for head in heads if head not in scored and not (trained and head.startswith(WISE_FT))}
    if others != expected or len(set(heads)) < len(heads) or heads != first:
        raise RecordError(
            f"heads is {shortened(', '.join(heads) or 'none')}; expected {' and '.join(sorted(expected))}, the same "
            f"for every protocol"
        )


def _require_shapes(file: TensorFile, place: str, *, heads: list[str]) -> None:
    def shape(name: str, dtype: str) -> tuple[int, ...]:
        if file.dtypes.get(f"{place}/{name}") != dtype:
            actual = file.dtypes.get(f"{place}/{name}", "not there")
            raise RecordError(f"{place}/{name} is {actual}; expected {dtype}")
        return file.shapes[f"{place}/{name}"]

    images, offsets, gallery = shape("images", "I32"), shape("offsets", "I64"), shape("gallery", "I64")
    ranks = {shape(f"ranks/{head}", "I32") for head in heads}
    if len(images) != 1 or offsets != (images[0] + 1,) or gallery != (1,) or len(ranks) > 1 or len(*ranks) != 1:
        raise RecordError(f"{place} has images, offsets, gallery and ranks whose shapes do not match")


def _require_ranks(ranked: ProtocolRankings) -> None:
    """Raise RecordError unless the ranks are valid, and as many as the protocol states."""
    protocol = ranked.protocol
    for head, directions in ranked.heads.items():
        for direction, folds in directions.items():
            where = f"{protocol['name']} {direction} {head}"
            for ranks, texts in zip(folds, directions["t2i"], strict=True):
                _require_fold(ranks, where=where, images=min(texts.gallery, protocol["images"]))
            queries = sum(ranks.queries for ranks in folds)
            gallery = max(ranks.gallery for ranks in folds)
            expected = protocol.get(direction, {"queries": queries, "gallery": gallery})
            if (queries, gallery) != (expected["queries"], expected["gallery"]):
                raise RecordError(
                    f"{where} has {queries:,} queries of {gallery:,} items; its protocol has "
                    f"{expected['queries']:,} of {expected['gallery']:,}"
                )


def _require_fold(fold: Ranks, *, where: str, images: int) -> None:
    ranks, offsets, gallery = fold.ranks, fold.offsets, fold.gallery
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(ranks) or (np.diff(offsets) < 1).any():
        raise RecordError(f"{where} has offsets that do not split its ranks into queries")
    if ranks.min() < 1 or ranks.max() > gallery:
        raise RecordError(f"{where} has ranks from {ranks.min():,} to {ranks.max():,} of {gallery:,} items")
    rising = np.diff(ranks) > 0
    rising[offsets[1:-1] - 1] = True
    if not rising.all():
        raise RecordError(f"{where} has ranks that are not ascending within a query")
    if fold.images.min() < 0 or fold.images.max() >= images:
        raise RecordError(f"{where} has queries of images outside its gallery")
