"""Ranks in a file beside metrics.json: all that intervals and comparisons are made from.

A ranks.safetensors holds, of every protocol, fold and direction, whose the queries are, and of every head their ranks;
and what is to be known of the trained head: its settings, its file's digest, and what leakage was found. So nothing
else has to be there still, or be as it was.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clipret import runs
from clipret.config import DIRECTIONS
from clipret.errors import RunError
from clipret.retrieval import Ranks

FORMAT = 2


@dataclass(frozen=True)
class Ranking:
    """One head's ranks in one direction of one fold.

    ranks   of every query
    images  (Q,) int64 which image of the fold each query is of; queries of one image are resampled together
    """

    ranks: Ranks
    images: np.ndarray


@dataclass(frozen=True)
class ProtocolRankings:
    """All that was ranked by one protocol.

    protocol  as metrics.json describes it, with `digest`: equal digests have the same queries, items and matches
    heads     head's name (zero-shot, trained ...) -> direction -> one Ranking a fold
    leakage   as in metrics.json; None for zero-shot alone
    """

    protocol: dict
    heads: dict[str, dict[str, tuple[Ranking, ...]]]
    leakage: dict | None = None


@dataclass(frozen=True)
class Trained:
    """The head that was measured as trained.

    head         its file, as it was named then
    sha256       of that file
    run          the run's folder, as it was named then; None: the head was in none
    config       the run's settings (TrainConfig's fields); None without a run
    fingerprint  of the cache that the run was trained on; None without a run
    finished     whether the run had come to its end; None without a run
    """

    head: str
    sha256: str
    run: str | None = None
    config: dict | None = None
    fingerprint: str | None = None
    finished: bool | None = None


@dataclass(frozen=True)
class Rankings:
    """What one evaluation ranked.

    cache      path, fingerprint, model, dataset, as in metrics.json
    protocols  the first is the one that metrics.json shows first
    trained    None for zero-shot alone
    """

    cache: dict
    protocols: tuple[ProtocolRankings, ...]
    trained: Trained | None = None


def head_digest(path: Path) -> str:
    """What Trained.sha256 is of a head's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rankings_path(metrics: Path) -> Path:
    """Where the ranks are kept that a file of metrics was made from: beside it."""
    return metrics.with_name(runs.RANKS if metrics.name == runs.METRICS else f"{metrics.stem}.{runs.RANKS}")


def write_rankings(path: Path, rankings: Rankings) -> None:
    """Write them atomically. Raises OSError."""
    tensors = {}
    for number, ranked in enumerate(rankings.protocols):
        for head, directions in ranked.heads.items():
            for direction, folds in directions.items():
                for fold, ranking in enumerate(folds):
                    place, ranks = f"{number}/{fold}/{direction}", ranking.ranks
                    tensors[f"{place}/images"] = np.asarray(ranking.images, dtype=np.int32)
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
    told = json.dumps(about, ensure_ascii=False)
    with runs.replaced(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata={"clipret": told, "sha256": _digest(told, tensors)}))


def read_rankings(path: Path) -> Rankings:
    """Raises FileNotFoundError, and RunError when it is not what write_rankings has written."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            about = json.loads(metadata["clipret"])
            if about["format"] != FORMAT:
                raise RunError(f"{path} is not of format {FORMAT}; measure again with this clipret: clipret eval")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(metadata["clipret"], tensors):
            raise ValueError("its checksum does not match")
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {error}); measure again with: clipret eval"
        ) from None
    protocols = tuple(_protocol(tensors, number, entry) for number, entry in enumerate(about["protocols"]))
    return Rankings(about["cache"], protocols, Trained(**about["trained"]) if about["trained"] else None)


def _digest(told: str, tensors: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256(told.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        found.update(np.ascontiguousarray(tensors[name]))
    return found.hexdigest()


def _protocol(tensors: dict[str, np.ndarray], number: int, entry: dict) -> ProtocolRankings:
    def ranking(place: str, head: str) -> Ranking:
        ranks = Ranks(
            ranks=tensors[f"{place}/ranks/{head}"].astype(np.int64),
            offsets=tensors[f"{place}/offsets"],
            gallery=int(tensors[f"{place}/gallery"][0]),
        )
        return Ranking(ranks, tensors[f"{place}/images"].astype(np.int64))

    folds = range(entry["protocol"]["folds"])
    heads = {
        head: {way: tuple(ranking(f"{number}/{fold}/{way}", head) for fold in folds) for way in DIRECTIONS}
        for head in entry["heads"]
    }
    return ProtocolRankings(entry["protocol"], heads, entry["leakage"])
