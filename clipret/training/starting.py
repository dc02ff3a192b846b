"""What a training starts from, and the head that its tensors are."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.config.checks import is_in_file
from clipret.heads import HEADS, load_head_kind
from clipret.heads.base import FEATURES, SIDES, Head, Start, Tensors, clip_tensors
from clipret.heads.linear import LinearHead
from clipret.retrieval.baseline import baseline_projections, correlated_projections
from clipret.retrieval.closed_form import Ridge, fit_procrustes, fit_ridge
from clipret.retrieval.gallery import read_validation
from clipret.retrieval.metrics import rsum

# Of ridge, to choose from, the nearest to CLIP's own projection first.
RIDGE_STRENGTHS = (float("inf"), 1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)
_RIDGE_WITHOUT_VAL = 1.0
# A sweep starts many runs on a cache from the same solution.
_SOLUTIONS: WeakKeyDictionary[FeatureCache, dict[tuple, Tensors]] = WeakKeyDictionary()


def initial_tensors(config: TrainConfig, cache: FeatureCache) -> Tensors:
    """All tensors of the head that the config describes, as they are before the first step: float32, on the CPU.

    They are new, and their bits depend on the config and the cache alone. What does not learn is the baseline's:
    CLIP's own, or the closed-form head of encoders that were never aligned.

    procrustes  CLIP's image projection (with train text: the text projection), and its bias, times the orthogonal
                matrix that takes the training embeddings nearest to those of the other side
    ridge       each learning side's projection towards the other side's CLIP embeddings (closed_form.Ridge), of the
                strength that config.ridge says. auto: the one of RIDGE_STRENGTHS whose head has the highest rsum on
                val, of equal ones the largest; the largest of all is CLIP's own head, so that none starts worse on
                val. Without a val split it is 1
    cca         both projections, with biases, by regularised canonical correlation analysis (closed_form.Cca) of the
                strength with the highest rsum on val; the embedding is then as wide as the narrower side's features
    others      as the kind of head has them (Head.start)

    Raises CacheError when a training feature is not finite.
    """
    solved = config.init in _SOLVERS
    kind = load_head_kind(config.head)
    clip = _solution(config, cache) if solved else clip_tensors(baseline_projections(cache), names=kind.names)
    wanted = Start(
        init="clip" if solved else config.init,
        sides=learning_sides(config),
        settings=head_settings(config),
        generator=torch.Generator().manual_seed(config.seed),
    )
    return kind.start({name: tensor.clone() for name, tensor in clip.items()}, wanted)


def build_head(config: TrainConfig, tensors: Mapping[str, torch.Tensor]) -> Head:
    """The head that a training's tensors are, for measuring it: it shares them, and keeps no gradients.

    tensors  by name, float32, on any device: those of initial_tensors, as they are now
    """
    return load_head_kind(config.head).build(tensors, settings=head_settings(config)).requires_grad_(False)


def head_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that the config's kind of head takes."""
    return {name: getattr(config, name) for name in HEADS[config.head].settings}


def inputs_of(config: TrainConfig) -> dict[str, str]:
    """image, text -> what the config's head reads: FEATURES or TOKENS. One of the user's own reads features."""
    learns_from = FEATURES if is_in_file(config.head) else load_head_kind(config.head).learns_from
    return {side: learns_from if side in learning_sides(config) else FEATURES for side in SIDES}


def learning_sides(config: TrainConfig) -> tuple[str, ...]:
    """image, text or both."""
    return SIDES if config.train == "both" else (config.train,)


def _solution(config: TrainConfig, cache: FeatureCache) -> Tensors:
    key = (config.init, config.train, config.ridge, config.drop_cross_split_duplicates)
    solutions = _SOLUTIONS.setdefault(cache, {})
    if key not in solutions:
        solutions[key] = _SOLVERS[config.init](config, cache)
    return solutions[key]


def _rotated(config: TrainConfig, cache: FeatureCache) -> Tensors:
    without_copies = config.drop_cross_split_duplicates
    projections = baseline_projections(cache)
    tensors, rotation = clip_tensors(projections), fit_procrustes(cache, projections, without_copies=without_copies)
    if config.train == "text":
        rotation = rotation.T
    side = "text" if config.train == "text" else "image"
    names = (name for name in (f"{side}_weight", f"{side}_bias") if name in tensors)
    turned = {name: tensors[name].double() @ torch.from_numpy(rotation.copy()) for name in names}
    return tensors | {name: tensor.float() for name, tensor in turned.items()}


def _regressed(config: TrainConfig, cache: FeatureCache) -> Tensors:
    without_copies = config.drop_cross_split_duplicates
    projections = baseline_projections(cache)
    solvers = fit_ridge(cache, projections, sides=learning_sides(config), without_copies=without_copies)
    tensors = clip_tensors(projections)
    if config.ridge != "auto":
        return _solve(solvers, tensors, strength=config.ridge)
    # On part of val other strengths are best.
    gallery = read_validation(cache)
    if gallery is None:
        return _solve(solvers, tensors, strength=_RIDGE_WITHOUT_VAL)
    solutions = (_solve(solvers, tensors, strength=strength) for strength in RIDGE_STRENGTHS)
    return max(solutions, key=lambda solved: rsum(gallery.measure(LinearHead(solved), device="cpu")))


def _correlated(config: TrainConfig, cache: FeatureCache) -> Tensors:
    return clip_tensors(correlated_projections(cache, without_copies=config.drop_cross_split_duplicates))


def _solve(solvers: dict[str, Ridge], tensors: Tensors, *, strength: float) -> Tensors:
    solved = {}
    for side, solver in solvers.items():
        solution = torch.from_numpy(solver.solve(strength)).float()
        solved[f"{side}_weight"] = solution[: len(tensors[f"{side}_weight"])].contiguous()
        if f"{side}_bias" in tensors:
            solved[f"{side}_bias"] = solution[-1].clone()
    return tensors | solved


# What a head can start as that is a solution in closed form, which needs the training pairs.
_SOLVERS = {"procrustes": _rotated, "ridge": _regressed, "cca": _correlated}
