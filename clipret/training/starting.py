"""What a training starts from."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.errors import UsageError
from clipret.heads.modules import PROJECTION_NAMES, LinearHead, learning_sides
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum
from clipret.training.closed_form import Ridge, fit_procrustes, fit_ridge

Tensors = dict[str, torch.Tensor]

# Of ridge, to choose from, the nearest to CLIP's own projection first.
RIDGE_STRENGTHS = (float("inf"), 1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)
_RIDGE_WITHOUT_VAL = 1.0


class _Solution(NamedTuple):
    tensors: Tensors
    strength: float | None


# A sweep starts many runs on a cache from the same solution.
_SOLUTIONS: WeakKeyDictionary[FeatureCache, dict[tuple, _Solution]] = WeakKeyDictionary()


def initial_tensors(config: TrainConfig, cache: FeatureCache) -> Tensors:
    """All tensors of the head that the config describes, as they are before the first step: float32, on the CPU.

    They are new, and their bits depend on the config and the cache alone. What does not learn is CLIP's own.

    linear   clip: CLIP's projections
             random: weights normal with standard deviation D^-0.5, as CLIP's own began; bias 0
             procrustes: CLIP's image projection (with train text: the text projection), and its bias, times the
             orthogonal matrix that takes the training embeddings nearest to those of the other side
             ridge: each learning side's projection towards the other side's CLIP embeddings (closed_form.Ridge), of
             the strength that config.ridge says; auto: see ridge_strength
    adapter  CLIP's projections; down uniform within E^-0.5 either way, up 0, so that the head is CLIP's own at first;
             with init random, up uniform within H^-0.5 either way. H is E // reduction, but at least 1

    Raises CacheError when a training feature is not finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    tensors = _clip_tensors(cache)
    if config.head == "adapter":
        return tensors | _adapters(config, tensors, generator=generator)
    if config.init == "random":
        return tensors | _random_projections(config, tensors, generator=generator)
    if config.init != "clip":
        return {name: tensor.clone() for name, tensor in _solution(config, cache).tensors.items()}
    return tensors


def ridge_strength(config: TrainConfig, cache: FeatureCache) -> float:
    """The strength with which a head of init ridge starts: config.ridge, or, if that is auto, the best on val.

    That is the one of RIDGE_STRENGTHS whose head has the highest rsum, of equal ones the largest; the largest of all is
    CLIP's own head, so that none starts worse on val. Without a val split the strength is 1.
    """
    return _solution(config, cache).strength


def _solution(config: TrainConfig, cache: FeatureCache) -> _Solution:
    key = (config.init, config.train, config.ridge, config.drop_cross_split_duplicates)
    known = _SOLUTIONS.setdefault(cache, {})
    if key not in known:
        known[key] = _rotated(config, cache) if config.init == "procrustes" else _regressed(config, cache)
    return known[key]


def _rotated(config: TrainConfig, cache: FeatureCache) -> _Solution:
    without_copies = config.drop_cross_split_duplicates
    tensors, rotation = _clip_tensors(cache), fit_procrustes(cache, without_copies=without_copies)
    if config.train == "text":
        names, rotation = ("text_weight",), rotation.T
    else:
        names = tuple(name for name in ("image_weight", "image_bias") if name in tensors)
    turned = {name: tensors[name].double() @ torch.from_numpy(rotation.copy()) for name in names}
    return _Solution(tensors | {name: tensor.float() for name, tensor in turned.items()}, None)


def _regressed(config: TrainConfig, cache: FeatureCache) -> _Solution:
    without_copies = config.drop_cross_split_duplicates
    solvers = fit_ridge(cache, sides=learning_sides(config), without_copies=without_copies)
    tensors = _clip_tensors(cache)
    if config.ridge != "auto":
        return _Solution(_solve(solvers, tensors, strength=config.ridge), config.ridge)
    gallery = _val_gallery(cache)
    if gallery is None:
        return _Solution(_solve(solvers, tensors, strength=_RIDGE_WITHOUT_VAL), _RIDGE_WITHOUT_VAL)
    found = []
    for strength in RIDGE_STRENGTHS:
        solved = _solve(solvers, tensors, strength=strength)
        found.append((rsum(gallery.measure(LinearHead(solved), device="cpu")), _Solution(solved, strength)))
    return max(found, key=lambda scored: scored[0])[1]


def _solve(solvers: dict[str, Ridge], tensors: Tensors, *, strength: float) -> Tensors:
    found = {}
    for side, solver in solvers.items():
        solution = torch.from_numpy(solver.solve(strength)).float()
        found[f"{side}_weight"] = solution[: len(tensors[f"{side}_weight"])].contiguous()
        if f"{side}_bias" in tensors:
            found[f"{side}_bias"] = solution[-1].clone()
    return tensors | found


def _val_gallery(cache: FeatureCache) -> Gallery | None:
    """The whole of val, which is what training reports: on part of it other strengths are best. None without one."""
    try:
        (fold,) = split_protocol(cache, split="val").folds
    except UsageError:
        return None
    return Gallery.read(cache, fold)


def _clip_tensors(cache: FeatureCache) -> Tensors:
    given = {name: cache.projections.get(name.replace("_", "/")) for name in PROJECTION_NAMES}
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in given.items() if array is not None}


def _random_projections(config: TrainConfig, tensors: Tensors, *, generator: torch.Generator) -> Tensors:
    # Both sides are drawn whichever learns, so that a side starts the same with or without the other.
    drawn = {}
    for side in ("image", "text"):
        weight = tensors[f"{side}_weight"]
        drawn[side] = torch.randn(weight.shape, generator=generator) * weight.shape[0] ** -0.5
    found = {f"{side}_weight": drawn[side] for side in learning_sides(config)}
    if "image_bias" in tensors and "image" in learning_sides(config):
        found["image_bias"] = torch.zeros_like(tensors["image_bias"])
    return found


def _adapters(config: TrainConfig, tensors: Tensors, *, generator: torch.Generator) -> Tensors:
    width = tensors["text_weight"].shape[1]
    bottleneck = max(1, width // config.adapter_reduction)
    found = {}
    for side in ("image", "text"):
        down, up = (
            _uniform((rows, columns), bound=rows**-0.5, generator=generator)
            for rows, columns in ((width, bottleneck), (bottleneck, width))
        )
        if side in learning_sides(config):
            found |= {f"{side}_down": down, f"{side}_up": up if config.init == "random" else torch.zeros_like(up)}
    return found


def _uniform(shape: tuple[int, int], *, bound: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)
