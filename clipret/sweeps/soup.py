"""A greedy soup: the average of heads of one sweep, each of which is taken only if val does not fall.

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time, ICML 2022, recipe 1. Weights of trainings that started elsewhere cannot be averaged: their average is no
better than chance. So only heads are taken that started from the same tensors as the best one, and that are of its kind
and settings.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import TrainConfig, to_dict
from clipret.heads.base import Head, Tensors
from clipret.heads.files import load_head, load_scalars, load_trained_on, save_head, scalar_metadata
from clipret.machine.devices import choose_device
from clipret.machine.progress import Progress, ProgressCallback
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import Gallery, read_validation
from clipret.retrieval.metrics import rsum
from clipret.sweeps.folder import Sweep
from clipret.training import autograd
from clipret.training.stack import head_tensors
from clipret.training.starting import initial_tensors

NAME = "soup"
# Why a head cannot be averaged with the best one.
KIND, START = "kind", "start"


def make_soup(sweep: Sweep, results: dict[str, dict], *, cache: FeatureCache, on_progress: ProgressCallback) -> dict:
    """Average the heads of a sweep, and write the average as a run, in the sweep's folder.

    results      name -> the result of training, for the runs that did not fail; their heads are all there
    on_progress  called after each head, with phase "soup"

    Heads are tried from the best validation rsum on, in the order of the grid where it is equal. A head is taken if the
    average with it has an rsum on val that is not below that of the average without it.

    Returns run (its path), runs (names of the heads in it, the best one first), heads (how many there were), unlike
    (KIND or START -> how many of them could not be averaged with the best), val_rsum, best_val_rsum (of the best head
    alone) and test (None).

    What an interrupted call left is replaced. Raises HeadError when a head cannot be read, and RunError when the soup
    cannot be written.
    """
    gallery, device = read_validation(cache), choose_device(sweep.config.device)
    trained = [config for config in sweep.trainings if config.name in results]
    ranked = sorted(trained, key=lambda config: -results[config.name]["val_rsum"])
    like = _Alike(sweep, ranked[0], cache=cache)
    soup, kept = _Average(like.head), [ranked[0]]
    best = value = _measured(soup, gallery, device=device)
    unlike: Counter[str] = Counter()
    on_progress(Progress("soup", 1, len(ranked)))
    for number, config in enumerate(ranked[1:], start=2):
        head, why = like.read(config)
        if why:
            unlike[why] += 1
        else:
            more = soup.with_head(head)
            with_it = _measured(more, gallery, device=device)
            if with_it >= value:
                soup, value = more, with_it
                kept.append(config)
        on_progress(Progress("soup", number, len(ranked)))
    names = [config.name for config in kept]
    made = {"runs": names, "heads": len(ranked), "unlike": dict(unlike), "val_rsum": value, "best_val_rsum": best}
    sweep.write(NAME, lambda folder: _write(folder, soup, kept, made=made, result=results[names[0]], cache=cache))
    return {"run": str(sweep.path / NAME), **made, "test": None}


@dataclass(frozen=True)
class _Average:
    """The average of one head or several.

    head   the first of them
    sums   name -> float64 sum over all of them; of whole numbers, as a head's own counters, the first's are taken
    """

    head: Head
    count: int = 1
    sums: Tensors | None = None

    def with_head(self, head: Head) -> "_Average":
        sums = {name: total + head.tensors[name].double() for name, total in self._totals.items()}
        return _Average(self.head, self.count + 1, sums)

    def as_head(self) -> Head:
        """The average, as float32."""
        means = {name: (total / self.count).float() for name, total in self._totals.items()}
        return self.head.like(self.head.tensors | means)

    @property
    def _totals(self) -> Tensors:
        tensors = self.head.tensors.items()
        return self.sums or {name: tensor.double() for name, tensor in tensors if tensor.is_floating_point()}


class _Alike:
    """The best head of a sweep, and the others as far as they can be averaged with it."""

    def __init__(self, sweep: Sweep, best: TrainConfig, *, cache: FeatureCache):
        self._sweep, self._cache = sweep, cache
        self.head = self._load(best)
        self._start = self._starting(best)

    def read(self, config: TrainConfig) -> tuple[Head, str | None]:
        """The head of a run, and why it cannot be averaged with the best one; None: it can. Raises HeadError."""
        head = self._load(config)
        if _function(head) != _function(self.head):
            return head, KIND
        start = self._starting(config)
        return head, None if all(start[name].equal(tensor) for name, tensor in self._start.items()) else START

    def _load(self, config: TrainConfig) -> Head:
        path, projections = self._sweep.path / config.name / runs.HEAD, baseline_projections(self._cache)
        return load_head(path, projections=projections, weights_sha256=self._cache.inputs["weights_sha256"])

    def _starting(self, config: TrainConfig) -> Tensors:
        """The tensors that a training started from."""
        codes = autograd.open_codes(config, named=False)
        if "head" in codes:
            return head_tensors(autograd.first_state(config, codes, cache=self._cache))
        return initial_tensors(config, self._cache)


def _function(head: Head) -> tuple:
    """What, but for the values of its tensors, decides what a head computes."""
    shapes = {name: tensor.shape for name, tensor in head.tensors.items()}
    metadata = dict(head.metadata)
    # Of the user's own each run has a copy of the code, and a seed, of which the start says more.
    metadata.pop("seed", None)
    metadata["code"] = metadata.get("code", "").rpartition(":")[2]
    return head.kind, metadata, shapes


def _measured(soup: _Average, gallery: Gallery, *, device: str) -> float:
    return rsum(gallery.measure(soup.as_head().to(device), device=device))


def _write(
    folder: Path, soup: _Average, kept: list[TrainConfig], *, made: dict, result: dict, cache: FeatureCache
) -> None:
    """Write the folder of the soup: what a run has, and which heads are in it.

    kept    the runs of its heads, the best one first
    result  of the best one
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    best = folder.parent / kept[0].name
    for what in autograd.OWN:
        if (best / autograd.copy_name(what)).exists():
            shutil.copy(best / autograd.copy_name(what), folder)
    settings = [to_dict(config) for config in kept]
    differing = [name for name, value in settings[0].items() if any(other[name] != value for other in settings)]
    record = runs.read_config(best)
    about = {"runs": made["runs"], "heads": made["heads"], "differing": differing}
    runs.write_json(folder / runs.CONFIG, {**record, "config": {**record["config"], "name": NAME}, "soup": about})
    paths = [folder.parent / config.name / runs.HEAD for config in kept]
    metadata = {
        "model": cache.about["model"],
        "weights_sha256": cache.inputs["weights_sha256"],
        "fingerprint": cache.fingerprint,
        **scalar_metadata(_mean_scalars([load_scalars(path) for path in paths])),
    }
    keys = [load_trained_on(path) for path in paths]
    trained_on = None if any(of_head is None for of_head in keys) else np.unique(np.concatenate(keys))
    save_head(soup.as_head(), path=folder / runs.HEAD, metadata=metadata, trained_on=trained_on)
    # Marks it as complete, so it comes last.
    own = {"kept_epoch": 0, "epochs": 0, "steps": 0, "val_rsum": made["val_rsum"], "remarks": [], "seconds": 0.0}
    kept_of_best = {name: value for name, value in result.items() if name not in ("run", "scalars")}
    runs.write_json(folder / runs.RESULT, {**kept_of_best, **own, "run": str(folder)})


def _mean_scalars(scalars: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each scalar of the heads' losses that all of them have."""
    return {name: fmean(of_head[name] for of_head in scalars) for name in scalars[0] if all(name in s for s in scalars)}
