"""An encoder's tokenizer in files that other programs read. Shape suffixes: B batch, L token positions."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipret.backbones.clip_package import import_clip
from clipret.backbones.hf_tokens import Tokens
from clipret.backbones.loading import quiet
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.protocol import Backbone
from clipret.backbones.tokenizing import LibraryTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_ENDS = ("<|startoftext|>", "<|endoftext|>")
# As transformers has it for CLIP; clip's own differs in nothing but the case, which is lowered before.
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_BASIC = ("ftfy", "unescape", "spaces")
# open_clip's functions of cleaning -> the same in words.
_CLEANING = {
    "_clean_lower": (*_BASIC, "lower"),
    "_clean_whitespace": _BASIC,
    "_clean_canonicalize": ("ftfy", "unescape", "no-punctuation", "lower", "spaces"),
}
_PROBES = (
    "a photo of a dog",
    "Two  Dogs,\tat the BEACH! It's 1234 o'clock -- isn't it?",
    "caf\u00e9 & \u201ccurly\u201d \ufb01ne &amp; &lt;b&gt; \uff21\uff22 na\u00efve \U0001f600\u200d\u2764\ufe0f",
    "snake_case (brackets) {braces} a/b",
    "",
    "dog " * 600,
)


def byte_pairs(simple: Any) -> "Tokenizer":
    """CLIP's tokenizer as one of the package tokenizers, without its cleaning of texts.

    simple  clip's own SimpleTokenizer, or open_clip's
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary, merges = _renamed(simple)
    start, end = _ENDS
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in _ENDS])
    return tokenizer


def write_byte_pairs(simple: Any, folder: Path) -> None:
    """vocab.json and merges.txt of CLIP's tokenizer, as transformers and others read them."""
    vocabulary, merges = _renamed(simple)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_texts(backbone: Backbone) -> tuple["Tokenizer", dict[str, Any]] | None:
    """The tokenizer of an encoder, with what is done before and after it; None: these words cannot say it.

    clean    what is done to a text, in order: ftfy (ftfy.fix_text), unescape (html.unescape, twice), no-punctuation
             (_ becomes a space, other ASCII punctuation is removed), lower, spaces (white space becomes one space)
    prefix   is put before the text
    longest  the most tokens; the tokenizer truncates to them
    padding  the id behind shorter texts
    length   L; None: that of the longest text
    """
    from tokenizers import Tokenizer

    (own, tokenize), clean, prefix = _own(backbone), (), ""
    if isinstance(tokenize, Tokens):
        prefix, clean = tokenize.prompt, ("lower",) if tokenize.lower_case else ()
    elif hasattr(tokenize, "clean_fn"):
        clean = _CLEANING.get(tokenize.clean_fn.__name__, ())
    else:
        clean = _CLEANING["_clean_lower"]
    if hasattr(tokenize, "bpe_ranks"):
        tokenizer = byte_pairs(tokenize)
    else:
        backend = getattr(getattr(tokenize, "tokenizer", None), "backend_tokenizer", None)
        if backend is None:
            return None
        # A copy, without what earlier calls left in it.
        tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(backbone.context_length)
    return tokenizer, {
        "tokenizer": TOKENIZER,
        "clean": list(clean),
        "prefix": prefix,
        "longest": backbone.context_length,
        "padding": 0 if isinstance(backbone, OpenAIClip) else own.padding,
        "length": backbone.context_length if own and not own.cut else None,
    }


def write_texts(backbone: Backbone, folder: Path, *, tokenizer: "Tokenizer") -> None:
    """tokenizer.json, and beside it what the encoder's own tokenizer saves, or vocab.json and merges.txt of CLIP's."""
    _, tokenize = _own(backbone)
    if hasattr(tokenize, "bpe_ranks"):
        write_byte_pairs(tokenize, folder)
    else:
        with quiet():
            tokenize.tokenizer.save_pretrained(folder)
    tokenizer.save(str(folder / TOKENIZER))


def is_described(backbone: Backbone, *, by: Any) -> bool:
    """Whether texts of several kinds get the encoder's own ids. by: texts -> (B, L) ids, by the description alone."""
    texts = list(_PROBES)
    with quiet():
        return np.array_equal(backbone.pad(backbone.tokenize(texts)[0]).numpy(), by(texts))


def _own(backbone: Backbone) -> tuple[LibraryTokenizer | None, Any]:
    """An encoder's tokenizer, None if it is clip's; and what is in it: one of hf_tokens, open_clip or clip."""
    own = backbone.own_tokenizer if isinstance(backbone, OpenAIClip) else backbone.text.tokenizer
    tokenize = own.tokenize if own else import_clip().clip._tokenizer
    # Of a text whose padding is masked.
    return own, tokenize.keywords.get("tokens") if isinstance(tokenize, functools.partial) else tokenize


def _renamed(simple: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges; open_clip calls the last two tokens by other names."""
    tokens = list(simple.encoder)
    names = [*tokens[: simple.encoder[tokens[-2]]], *_ENDS]
    return {name: place for place, name in enumerate(names)}, list(simple.bpe_ranks)
