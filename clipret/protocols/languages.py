"""A protocol by languages: the same images, and the captions in one language alone.

Crossmodal-3600 and XTD10 are measured so: captions in a language ask among all images, and images among the captions in
it. The figure of a data set is the mean over its languages.
"""

from dataclasses import replace

import numpy as np

from clipret.annotations.languages import language_rows, unlike_published
from clipret.cache import FeatureCache
from clipret.errors import UsageError
from clipret.protocols.protocol import Protocol


def by_language(cache: FeatureCache, protocol: Protocol, *, languages: tuple[str, ...]) -> list[Protocol]:
    """The protocol in each of these languages, named NAME:LANGUAGE; all that the cache has where none is asked for.

    A cache whose captions say no language gives the protocol itself.

    Raises UsageError when the cache has no such language, or the protocol matches captions by another truth.
    """
    rows = language_rows(cache.caption_ids)
    if not rows:
        if languages:
            raise UsageError(
                f"--language {','.join(languages)}: the captions of {cache.path} do not say their languages; expected "
                f"a cache of xm3600 or xtd10."
            )
        return [protocol]
    unknown = [language for language in languages if language not in rows]
    if unknown:
        raise UsageError(f"--language {','.join(unknown)}: {cache.path} has {', '.join(rows)}.")
    if any(fold.matches for fold in protocol.folds):
        if languages:
            raise UsageError(f"--language and --protocol {protocol.name} contradict each other; leave one of them out.")
        return [protocol]
    return [_in(cache, protocol, language=language, rows=rows[language]) for language in languages or rows]


def _in(cache: FeatureCache, protocol: Protocol, *, language: str, rows: np.ndarray) -> Protocol:
    folds = []
    for fold in protocol.folds:
        kept = np.isin(fold.text_rows, rows)
        if not kept.any():
            raise UsageError(f"--language {language}: {cache.path} has no captions in it of {protocol.name}'s images.")
        folds.append(replace(fold, text_rows=fold.text_rows[kept], caption_images=fold.caption_images[kept]))
    dataset = cache.inputs["dataset"]
    published = unlike_published(dataset, {language: len(rows)}) if protocol.name == dataset else []
    name, remarks = f"{protocol.name}:{language}", (*protocol.remarks, *published)
    return replace(protocol, name=name, folds=tuple(folds), remarks=remarks)
