"""Captions in several languages: the language is the beginning of a caption's id, as in `de:000411001ff7dd4f#0`.

And what the multilingual test sets publish of themselves, which readers and protocols check.
"""

import re
from collections.abc import Sequence

import numpy as np

# XM3600 (Thapliyal et al., EMNLP 2022, table 1): captions in each language, of 3,600 images; 261,375 in all.
XM3600_CAPTIONS = {
    "ar": 7367,
    "bn": 3600,
    "cs": 7207,
    "da": 7264,
    "de": 8643,
    "el": 7204,
    "en": 7200,
    "es": 8614,
    "fa": 7245,
    "fi": 7127,
    "fil": 7109,
    "fr": 8562,
    "he": 7200,
    "hi": 8503,
    "hr": 7280,
    "hu": 7216,
    "id": 7126,
    "it": 8471,
    "ja": 7185,
    "ko": 7650,
    "mi": 4732,
    "nl": 8059,
    "no": 7213,
    "pl": 7141,
    "pt": 7243,
    "quz": 7200,
    "ro": 7123,
    "ru": 7200,
    "sv": 7273,
    "sw": 7046,
    "te": 7200,
    "th": 7200,
    "tr": 7233,
    "uk": 7215,
    "vi": 7350,
    "zh": 7174,
}
# XTD10 (Aggarwal and Kale, 2020) with the files of Multi30k's and STAIR's languages: a caption an image in each.
XTD10_CAPTIONS = dict.fromkeys(("de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"), 1000)
PUBLISHED_CAPTIONS = {"xm3600": XM3600_CAPTIONS, "xtd10": XTD10_CAPTIONS}

_TAGGED = re.compile(r"([a-z]{2,3}):")


def tagged_id(language: str, caption: str) -> str:
    """A caption's id with its language."""
    return f"{language}:{caption}"


def language_rows(caption_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Language -> its rows, ascending; languages by the alphabet. Empty unless all captions say theirs.

    caption_ids  M ids
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(caption_ids):
        match = _TAGGED.match(name)
        if match is None:
            return {}
        rows.setdefault(match[1], []).append(row)
    return {language: np.array(rows[language], dtype=np.int64) for language in sorted(rows)}


def unlike_published(dataset: str, counts: dict[str, int]) -> list[str]:
    """What differs from what the data set publishes: `de has 12 captions (published: 8,643)`; empty where nothing does.

    counts  language -> captions, of the languages that are looked at
    """
    published = PUBLISHED_CAPTIONS.get(dataset, {})
    return [
        f"{language} has {count:,} captions (published: {published.get(language, 0):,})"
        for language, count in counts.items()
        if published and count != published.get(language, 0)
    ]
