"""Captions -> token ids by a model's own tokenizer of transformers. Shape suffixes: B batch, L token positions."""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from clipret.backbones.hf_files import LOCAL, Source
from clipret.backbones.hf_kinds import CAUSAL, CONFIG, MASKED, PADDED
from clipret.backbones.hub import digest_of
from clipret.backbones.loading import explained, quiet
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

_PROBE_TEXTS = ("A dog", "Two men ride on 3 trains!")
# Files that decide how a text becomes ids.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# Of these, those of sentencepiece.
_PIECES = {"sentencepiece.bpe.model", "spiece.model"}
# Text models whose positions are counted from the id of the padding on.
_OFFSET = ("altclip_text_model", "camembert", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Where neither a model nor its tokenizer says how long texts may be.
_USUAL_LENGTH = 512
# A tokenizer without a limit says a number above this one.
_LONGEST = 1 << 20
# Text models of a VisionTextDualEncoder that are CLIP's.
_CAUSAL = ("clip_text_model", "metaclip_2_text_model")
# ChineseCLIP was trained on captions of 52 tokens; its table of positions is that of the BERT that it began as.
_TRAINED = {"ChineseCLIPModel": 52}


@dataclass(frozen=True)
class Tokens:
    """Texts -> ids, as a tokenizer of transformers gives them. Can be pickled.

    tokenizer   of transformers
    length      the most tokens of a text, start and end included
    prompt      is put before every text
    lower_case  whether texts are lower-cased first
    """

    tokenizer: Any
    length: int
    prompt: str = ""
    lower_case: bool = False

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(B, length) int64, truncated, and padded at the end."""
        settings = {"padding": "max_length", "truncation": True, "max_length": self.length}
        return self.tokenizer(self._prepared(texts), **settings, return_tensors="pt")["input_ids"]

    def rows(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts, truncated, without padding."""
        return self.tokenizer(self._prepared(texts), truncation=True, max_length=self.length)["input_ids"]

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of texts before truncation, start and end included."""
        ids = self.tokenizer(self._prepared(texts), truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]

    def _prepared(self, texts: list[str]) -> list[str]:
        return [self.prompt + (text.lower() if self.lower_case else text) for text in texts]


def load_tokens(source: Source, *, config: Any) -> LibraryTokenizer:
    """The folder's own tokenizer, with the context length of its model; config: the model's. Raises BackboneError."""
    reads, text = reading_of(source, config=config), config.text_config
    tokenizer = open_tokenizer(source)
    with explained("transformers", source.name):
        ids = [tokenizer(probe)["input_ids"] for probe in _PROBE_TEXTS]
    if reads == PADDED and tokenizer.padding_side != "right":
        raise BackboneError(
            f"the tokenizer of {source.name} pads at the left, and the model reads the padding; SigLIP was trained "
            f'with padding at the right: expected "padding_side": "right" in tokenizer_config.json.'
        )
    # Nowhere else does the side change what a model makes of a text.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None and reads == CAUSAL:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer of {source.name} has no padding; expected a pad_token in its files.")
    require_vocabulary(tokenizer, config=text, name=source.name)
    if reads == CAUSAL:
        _require_end(ids, source=source, text=text)
    length = context_length(text, tokenizer=tokenizer)
    tokens = Tokens(tokenizer, min(length, _TRAINED.get(source.kind.name, length)))
    ends = reads != MASKED and all(row[-1] == tokenizer.eos_token_id for row in ids)
    return LibraryTokenizer(
        tokenize=tokens,
        count=tokens.count,
        context_length=tokens.length,
        end=tokenizer.eos_token_id if ends else None,
        padding=tokenizer.pad_token_id,
        cut=reads != PADDED,
    )


def open_tokenizer(source: Source) -> Any:
    """The tokenizer of transformers in a folder. Raises BackboneError."""
    _require_tokenizer(source)
    with explained("transformers", f"the tokenizer of {source.name}"):
        import transformers

        return transformers.AutoTokenizer.from_pretrained(source.folder, **LOCAL)


def require_vocabulary(tokenizer: Any, *, config: Any, name: str) -> None:
    """Raise BackboneError where a tokenizer has more tokens than the text model of this config."""
    size = getattr(config, "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise BackboneError(
            f"the tokenizer of {name} has {len(tokenizer):,} tokens, its model {size:,}; expected the tokenizer that "
            f"the model was trained with."
        )


def _require_tokenizer(source: Source) -> None:
    """Raise BackboneError where a folder has no tokenizer, or it needs a package that is not installed."""
    names = {name for name in TOKENIZER_FILES if (source.folder / name).is_file()}
    if not names & {*_PIECES, "tokenizer.json", "vocab.json", "vocab.txt"}:
        raise BackboneError(f"{source.folder} has no tokenizer; expected tokenizer.json, or the older files of one.")
    if names & _PIECES and "tokenizer.json" not in names and not importlib.util.find_spec("sentencepiece"):
        raise BackboneError(
            f"{source.folder / min(names & _PIECES)} is read by sentencepiece; install with: pip install sentencepiece"
        )


def reading_of(source: Source, *, config: Any) -> str:
    """How the model reads a text: causal, masked or padded."""
    return CAUSAL if config.text_config.model_type in _CAUSAL else source.kind.reads


def _require_end(ids: list[list[int]], *, source: Source, text: Any) -> None:
    """CLIP's text model takes the first eos_token_id of a text, and where there is none its first token, silently."""
    end = text.eos_token_id
    for row in ids:
        # 2 stands for the highest id in CLIP's first configs; not so in MetaClip 2's.
        highest = end == 2 and text.model_type == "clip_text_model"
        place = row.index(max(row)) if highest else row.index(end) if end in row else 0
        if place != len(row) - 1:
            raise BackboneError(
                f"eos_token_id of text_config in {source.folder / CONFIG} is {end}: transformers would read texts at "
                f"token {place + 1} of {len(row)}; their last is {row[-1]}, which is expected there."
            )


def context_length(config: Any, *, tokenizer: Any) -> int:
    """The most tokens that a text model has positions for and its tokenizer allows; 512 where neither says.

    config  of the text model
    """
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _LONGEST else []
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if isinstance(positions, int) and positions > 0:
        offset = config.pad_token_id + 1 if config.model_type in _OFFSET else 0
        limits.append(positions - offset)
    return min(limits, default=_USUAL_LENGTH)


def describe_tokens(tokens: Tokens, *, source: Source, reads: str) -> str:
    """The tokenizer, in words."""
    digest = digest_of(source.folder / name for name in TOKENIZER_FILES if (source.folder / name).is_file())
    with quiet():
        upper, lower = tokens.rows([_PROBE_TEXTS[0], _PROBE_TEXTS[0].lower()])
    case = "lower-cased" if upper == lower else "case kept"
    padding = {CAUSAL: "read up to the end", MASKED: "padding masked", PADDED: "padded to that, no mask"}
    name = type(tokens.tokenizer).__name__
    return f"{name} {digest[:12]}, {tokens.length:,} tokens, {case}, {padding[reads]}"
