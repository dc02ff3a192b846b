"""Captions that other libraries' tokenizers read otherwise than clip's."""

import functools
import unicodedata

from clipret.backbones.clip_package import import_clip


@functools.lru_cache(maxsize=1024)
def reads_as_clip(caption: str) -> bool:
    """Whether clip's clean-up leaves a caption as it is.

    clip mends misread letters, and replaces curly quotes, ligatures, full-width letters and HTML entities (ftfy,
    html.unescape); tokenizers of Hugging Face do not. White space and case both treat alike, but for a last sigma.
    """
    cleaned = import_clip().simple_tokenizer.basic_clean(caption)
    same = cleaned == unicodedata.normalize("NFC", caption.strip())
    return same and cleaned.lower() == "".join(letter.lower() for letter in cleaned)
