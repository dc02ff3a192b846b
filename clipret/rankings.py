"""Ranks in a file beside metrics.json: what intervals and comparisons are made from, without features or a head.

A ranks.safetensors holds, of every protocol, fold and direction, whose the queries are, and of every head their ranks.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clipret import runs
from clipret.config import DIRECTIONS
from clipret.errors import RunError
from clipret.retrieval import Ranks

FORMAT = 1


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
    """

    protocol: dict
    heads: dict[str, dict[str, tuple[Ranking, ...]]]


@dataclass(frozen=True)
class Rankings:
    """What one evaluation ranked.

    cache      path, fingerprint, model, dataset, as in metrics.json
    protocols  the first is the one that metrics.json shows first
    """

    cache: dict
    protocols: tuple[ProtocolRankings, ...]


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
        "protocols": [
            {"protocol": ranked.protocol, "heads": list(ranked.heads), "folds": ranked.protocol["folds"]}
            for ranked in rankings.protocols
        ],
    }
    with runs.replaced(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata={"clipret": json.dumps(about, ensure_ascii=False)}))


def read_rankings(path: Path) -> Rankings:
    """Raises RunError when there is no such file or it is not one of this format."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["clipret"])
            if about["format"] == FORMAT:
                numbered = enumerate(about["protocols"])
                return Rankings(about["cache"], tuple(_protocol(file, number, entry) for number, entry in numbered))
    except FileNotFoundError:
        raise RunError(f"there is no {path}; measure the run with: clipret eval --head {path.parent}") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {error}); measure the run again with: "
            f"clipret eval --head {path.parent}"
        ) from None
    raise RunError(f"{path} is not of format {FORMAT}; measure the run again with: clipret eval --head {path.parent}")


def _protocol(file, number: int, entry: dict) -> ProtocolRankings:
    def ranking(place: str, head: str) -> Ranking:
        ranks = Ranks(
            ranks=file.get_tensor(f"{place}/ranks/{head}").astype(np.int64),
            offsets=file.get_tensor(f"{place}/offsets"),
            gallery=int(file.get_tensor(f"{place}/gallery")[0]),
        )
        return Ranking(ranks, file.get_tensor(f"{place}/images").astype(np.int64))

    heads = {
        head: {
            direction: tuple(ranking(f"{number}/{fold}/{direction}", head) for fold in range(entry["folds"]))
            for direction in DIRECTIONS
        }
        for head in entry["heads"]
    }
    return ProtocolRankings(entry["protocol"], heads)
