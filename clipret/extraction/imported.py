"""Imported features beside those of the encoder that is said to have made them."""

from collections.abc import Mapping

import numpy as np

from clipret.backbones.protocol import Backbone
from clipret.cache import SIDES, FeatureCache
from clipret.config import VerifyConfig
from clipret.errors import UsageError

_UNKNOWN = "unknown"


def encoder_name(cache: FeatureCache, config: VerifyConfig) -> str:
    """The model to encode a sample with. Raises UsageError when nobody says which."""
    name = config.model or cache.about["model"]
    if cache.imported and name == _UNKNOWN:
        raise UsageError(
            f"{cache.path} was imported, and nothing says which encoder made its features; name it with --model NAME."
        )
    return name


def sampled_sides(cache: FeatureCache) -> tuple[str, ...]:
    """The sides that can be encoded again: of imported features those whose files, or captions, are in the cache.

    Raises UsageError when neither can.
    """
    if not cache.imported:
        return SIDES
    texts: Mapping[str, tuple] = {"image": (cache.image_files, "files"), "text": (cache.captions, "captions")}
    sides = tuple(side for side, (column, _) in texts.items() if any(column))
    if not sides:
        raise UsageError(
            f"{cache.path} was imported without files and captions, so that nothing can be encoded again; import it "
            f"with a --table that has them."
        )
    return sides


def comparable(
    cache: FeatureCache, backbone: Backbone, side: str, *, cached: np.ndarray, again: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cached features, and those encoded again, (B, D) as they can be compared.

    Final embeddings are compared after the encoder's projection, up to their lengths.

    Raises UsageError when the widths differ.
    """
    if cache.imported:
        if cache.aligned and "final" in cache.inputs["imported"]:
            projections = backbone.projections()
            again = again @ projections[f"{side}/weight"] + projections.get(f"{side}/bias", 0)
            cached, again = _normalised(cached), _normalised(again)
        if cached.shape[1] != again.shape[1]:
            raise UsageError(
                f"the {side} features of {cache.path} are {cached.shape[1]} wide, those of {backbone.name} "
                f"{again.shape[1]}; name the encoder that made them with --model."
            )
    return cached, again


def _normalised(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
