"""Captions as clip's tokenizer reads them, for tokenizers of other libraries."""

from clipret.backbones.clip_package import import_clip


def cleaned(caption: str) -> str:
    """A caption after clip's own clean-up, which its tokenizer begins with.

    It mends misread letters, replaces curly quotes, ligatures, full-width letters and HTML entities (ftfy,
    html.unescape), and makes all letters small. Tokenizers of Hugging Face do not, or a little otherwise (a sigma that
    ends a word); the result they read as clip does.
    """
    return import_clip().simple_tokenizer.basic_clean(caption).lower()
