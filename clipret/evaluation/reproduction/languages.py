"""Protocols of captions in several languages, as published results are measured: one language, or the mean over all."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from clipret.cache import FeatureCache
from clipret.protocols.protocol import Fold, Protocol


def caption_languages(cache: FeatureCache) -> np.ndarray:
    """(M,) the language of every caption, which is the part of its id before a colon; "" for none."""
    return np.array([name.partition(":")[0] if ":" in name else "" for name in cache.caption_ids])


def in_languages(
    protocol: Protocol, wanted: Collection[str], *, of_captions: np.ndarray, first: bool
) -> Protocol | str:
    """The protocol with one gallery per language; a metric of it is the mean over the languages.

    of_captions  (M,) as returned by caption_languages
    first        whether only the first caption of an image in the language is used

    Returns the reason as text if a language has no captions.
    """
    folds = []
    for language in wanted:
        parts = [_in_language(fold, of_captions[fold.text_rows] == language, first=first) for fold in protocol.folds]
        if not all(len(part.text_rows) for part in parts):
            return f"the cache has no captions in language '{language}'"
        folds += parts
    return replace(protocol, folds=tuple(folds))


def _in_language(fold: Fold, spoken: np.ndarray, *, first: bool) -> Fold:
    """The gallery with the captions of a mask over its captions."""
    places = np.flatnonzero(spoken)
    if first:
        # Rows are ascending: the index of the first occurrence is that of the first caption.
        places = np.sort(places[np.unique(fold.caption_images[places], return_index=True)[1]])
    return replace(fold, text_rows=fold.text_rows[places], caption_images=fold.caption_images[places])
