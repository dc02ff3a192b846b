"""Ranks made up, and folders of runs that have them."""

import json
from pathlib import Path

import numpy as np

from clipret.config import TrainConfig, to_dict
from clipret.retrieval.engine import Matches, rank
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import ProtocolRankings, Rankings, Trained, rankings_path, write_rankings


def ranking(queries, *, images, gallery=1000):
    """Of ranks listed query by query; a number stands for a list of one."""
    lists = [[query] if np.isscalar(query) else sorted(query) for query in queries]
    offsets = np.cumsum([0, *map(len, lists)])
    return Ranks(np.concatenate(lists).astype(np.int64), offsets, gallery, images=np.asarray(images, dtype=np.int64))


def rank_captions(images, texts, *, caption_images, **settings):
    """The engine's ranks where every caption matches its image, and every image its captions."""
    matches = Matches.of(np.asarray(caption_images), images=len(images))
    return rank(images, texts, matches=matches, **settings)


def best_ranks(ranks, *, images):
    """Of an array of best ranks, one matching item a query."""
    ranks = np.asarray(ranks, dtype=np.int64)
    return Ranks(ranks, np.arange(len(ranks) + 1), 10**6, images=np.asarray(images, dtype=np.int64))


def random_head(generator, *, counts, spread=20):
    """Both directions of one fold: image i has counts[i] captions, which are its matching items too."""
    owners = np.repeat(np.arange(len(counts)), counts)
    asking = np.flatnonzero(counts)
    texts = ranking(generator.integers(1, spread, len(owners)).tolist(), images=owners)
    lists = [generator.choice(np.arange(1, spread + 1), counts[image], replace=False).tolist() for image in asking]
    return {"t2i": (texts,), "i2t": (ranking(lists, images=asking),)}


def joined(*heads):
    """One head of several folds."""
    return {way: tuple(head[way][0] for head in heads) for way in ("t2i", "i2t")}


def described(head, *, name="split", split="test", digest="d", precision="fp32", remarks=(), images=None):
    """The protocol of a head's rankings, as metrics.json has it."""
    captions = sum(fold.queries for fold in head["t2i"])
    return {
        "name": name,
        "split": split,
        "images": images or sum(fold.queries for fold in head["i2t"]),
        "captions": captions,
        "folds": len(head["t2i"]),
        "remarks": list(remarks),
        "precision": precision,
        "digest": digest,
    }


def write_measured(folder: Path, protocols, *, cache=None, leakage=None, metrics="metrics.json", run=None, config=None):
    """Ranks and metrics, as eval writes them: protocols is a list of (description, heads).

    run     of the head, which is in it
    config  of that run
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"path": "c.h5", "fingerprint": "f" * 64, "model": "tiny", "dataset": "made", **(cache or {})}
    trained = None
    if "trained" in protocols[0][1]:
        leakage = leakage or {"checked": True, "trained_on": 0, "images": 5}
        run = run or str(folder)
        trained = Trained(f"{run}/head.safetensors", "0" * 64, run, config, "f" * 64, finished=True)
    ranked = tuple(ProtocolRankings(description, heads, leakage) for description, heads in protocols)
    write_rankings(rankings_path(folder / metrics), Rankings(about, ranked, trained))
    record = {"run": run, "head": trained and trained.head, "cache": about, "protocol": protocols[0][0]}
    record |= {"results": {}, "rsum": {}}
    (folder / metrics).write_text(json.dumps(record))
    return folder / metrics


def write_run(folder: Path, trained, zero_shot, *, between=None, description=None, config=None, **measured):
    """A run's folder whose head got `trained`; returns its path as text.

    between  further heads by name, such as wise-ft 0.5
    config   settings of its TrainConfig
    """
    heads = {"zero-shot": zero_shot, **(between or {}), "trained": trained}
    settings = to_dict(TrainConfig(cache="c.h5", **(config or {})))
    write_measured(folder, [(description or described(trained), heads)], config=settings, **measured)
    record = {"format": 1, "config": settings, "cache": {"path": "c.h5", "fingerprint": "f" * 64}}
    (folder / "config.json").write_text(json.dumps(record))
    return str(folder)
