"""Captions on their way from an annotation file to CLIP: cleaned, then put into the prompt."""

import functools
import html
import re
import sys
import unicodedata
from pathlib import Path

from clipret.errors import DatasetError

# Letters and symbols that are drawn as nothing: the fillers of Hangul, and Braille without a dot.
_UNDRAWN = "\u115f\u1160\u2800\u3164\uffa0"
# Three letters in a row are no spelling of a character that shows nothing, in whatever encoding it was misread.
_WORD = re.compile(rf"[^\W\d_{_UNDRAWN}]{{3}}")


# The captions of one image in a text file of their own are some lines; what is longer is no such file.
_MOST_BYTES = 16 << 20


def require_short(path: Path, size: int) -> None:
    """Raise DatasetError when a file of so many bytes, or a member of a shard, is too long for one image's captions."""
    if size > _MOST_BYTES:
        raise DatasetError(f"{path} has {size:,} bytes, over {_MOST_BYTES:,}; expected the captions of one image.")


def clean_caption(caption: str, how: str) -> str:
    """A caption without surrounding or repeated white space, cleaned as config.CAPTION_CLEANINGS says.

    none               untouched, white space included
    lower              in lower case
    strip-punctuation  without the characters that Unicode calls punctuation
    """
    if how == "none":
        return caption
    cleaned = caption.lower() if how == "lower" else caption.translate(_punctuation())
    return " ".join(cleaned.split())


def is_empty(caption: str) -> bool:
    """Whether a caption shows nothing: white space alone, or characters that are not seen, once CLIP has cleaned it.

    CLIP reads `&nbsp;` and `Â\\xa0` (misread UTF-8) as white space. A zero-width space or a soft hyphen is a token to
    it, and says as little.
    """
    if caption.isascii() and caption.isprintable() and "&" not in caption:
        return not caption.strip()
    if _WORD.search(html.unescape(html.unescape(caption))):
        return False
    # Of clip's own needs, and slow to load: most data sets have no such caption.
    import ftfy

    cleaned = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return all(character in _UNDRAWN or _is_unseen(character) for character in cleaned)


def prompted(captions: list[str], *, prompt: str, cleaning: str) -> list[str]:
    """The texts that CLIP reads for these captions: the same list where nothing is added or cleaned.

    prompt    with {} where the caption stands
    cleaning  as clean_caption takes it
    """
    if (prompt, cleaning) == ("{}", "none"):
        return captions
    return [prompt.replace("{}", clean_caption(caption, cleaning)) for caption in captions]


def _is_unseen(character: str) -> bool:
    # Variation selectors are marks, not formats; seen only on what they follow.
    unseen = unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")
    return unseen or character.isspace() or "\ufe00" <= character <= "\ufe0f" or character == "\u034f"


@functools.cache
def _punctuation() -> dict[int, None]:
    return {code: None for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("P")}
