"""The head that trained heads start from and are compared with.

That is the encoder's own head, zero-shot; two encoders that were never aligned have none, and theirs is a solution in
closed form over the training pairs.
"""

from pathlib import Path

import numpy as np

from clipret.cache import FeatureCache
from clipret.cache.taps import block_arrays
from clipret.config.comparison import BASELINES
from clipret.errors import TrainingError, UsageError
from clipret.heads.linear import LinearHead
from clipret.retrieval.closed_form import fit_cca
from clipret.retrieval.gallery import read_validation
from clipret.retrieval.metrics import rsum

# Of the correlation analysis, to choose from; the largest first.
CCA_STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
_STRENGTH_WITHOUT_VAL = 0.1
# A command asks several times, and a sweep for every run that it measures, each time of a cache opened anew.
_SOLUTIONS: dict[tuple, dict[str, np.ndarray]] = {}
_MOST_SOLUTIONS = 4


def baseline_name(cache: FeatureCache) -> str:
    """What tables and records call the baseline of a cache: zero-shot or closed-form."""
    zero_shot, closed_form = BASELINES
    return zero_shot if cache.aligned else closed_form


def baseline_projections(cache: FeatureCache) -> dict[str, np.ndarray]:
    """The projections of the baseline, by the names that a cache gives them.

    Those of the cache where it has them, and where it has tokens the last block that they go into, by the names of
    taps.block_arrays. Otherwise regularised canonical correlation analysis of the training pairs
    (closed_form.Cca) without images that val or test has too, of the strength of CCA_STRENGTHS with the highest rsum on
    val, of equal ones the largest; without a val split it is 0.1. E is then the smaller of the two feature widths.

    Raises UsageError when the cache has neither projections nor images of train to solve for them, CacheError when a
    feature is not finite.
    """
    if cache.aligned:
        return cache.projections | block_arrays(cache.blocks) if cache.blocks else cache.projections
    key = _key(cache)
    if key not in _SOLUTIONS:
        solution = _closed_form(cache)
        while len(_SOLUTIONS) >= _MOST_SOLUTIONS:
            del _SOLUTIONS[next(iter(_SOLUTIONS))]
        _SOLUTIONS[key] = solution
    return _SOLUTIONS[key]


def _key(cache: FeatureCache) -> tuple:
    """Of the files as they are now."""
    paths = [member.path for member in cache.members]
    states = [(state.st_ino, state.st_mtime_ns, state.st_size) for state in map(Path.stat, paths)]
    return cache.fingerprint, *(path.resolve() for path in paths), *states


def _closed_form(cache: FeatureCache) -> dict[str, np.ndarray]:
    try:
        return cache.projections | correlated_projections(cache, without_copies=True)
    except (UsageError, TrainingError) as error:
        raise UsageError(
            f"{cache.path} is of two encoders without projections of their own, so that its untrained head is solved "
            f"for on the train split: {error}"
        ) from None


def correlated_projections(cache: FeatureCache, *, without_copies: bool) -> dict[str, np.ndarray]:
    """Weights and biases of both sides by correlation analysis of the training pairs, as baseline_projections says.

    without_copies  as leakage.training_images takes it

    Raises UsageError and TrainingError without images of train, CacheError when a feature is not finite.
    """
    analysis = fit_cca(cache, without_copies=without_copies)
    gallery = read_validation(cache)
    if gallery is None:
        return analysis.solve(_STRENGTH_WITHOUT_VAL)
    solutions = (analysis.solve(strength) for strength in CCA_STRENGTHS)
    return max(solutions, key=lambda solved: rsum(gallery.measure(LinearHead(solved), device="cpu")))
