"""Captions as clip's tokenizer reads them, for tokenizers of other libraries."""

from clipret.backbones.clip_package import import_clip
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.protocol import Backbone


def cleaned(caption: str, backbone: Backbone) -> str:
    """A caption after clip's own clean-up, which its tokenizer begins with; as it is where another one is used.

    It mends misread letters, replaces curly quotes, ligatures, full-width letters and HTML entities (ftfy,
    html.unescape), and makes all letters small. Tokenizers of Hugging Face do not, or a little otherwise (a sigma that
    ends a word); the result they read as clip does.
    """
    if not isinstance(backbone, OpenAIClip) or backbone.own_tokenizer is not None:
        return caption
    return import_clip().simple_tokenizer.basic_clean(caption).lower()
