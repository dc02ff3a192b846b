"""Captions -> token ids by a model's own tokenizer of transformers. Shape suffixes: B batch, L token positions."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipret.backbones.hf_files import CAUSAL, CONFIG, MASKED, PADDED, Source, explained, quiet
from clipret.backbones.hub import digest_of
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

_PROBE_TEXTS = ("A dog", "Two men ride on 3 trains!")
# Files that decide how a text becomes ids.
_TOKENIZER_FILES = (
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
_OFFSET = ("altclip_text_model", "camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Text models of a VisionTextDualEncoder that are CLIP's.
_CAUSAL = ("clip_text_model", "metaclip_2_text_model")
# ChineseCLIP was trained on captions of 52 tokens; its table of positions is that of the BERT that it began as.
_TRAINED = {"ChineseCLIPModel": 52}


@dataclass(frozen=True)
class Tokens:
    """Texts -> ids, as a tokenizer of transformers gives them. Can be pickled."""

    tokenizer: Any
    length: int

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(B, length) int64, truncated, and padded at the end."""
        settings = {"padding": "max_length", "truncation": True, "max_length": self.length}
        return self.tokenizer(texts, **settings, return_tensors="pt")["input_ids"]

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of texts before truncation, start and end included."""
        return [len(ids) for ids in self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def load_tokens(source: Source, *, config: Any) -> LibraryTokenizer:
    """The folder's own tokenizer, with the context length of its model; config: the model's. Raises BackboneError."""
    import transformers

    reads, text = reading_of(source, config=config), config.text_config
    _require_tokenizer(source)
    with quiet(), explained(source.name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=False, local_files_only=True
        )
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
    if len(tokenizer) > text.vocab_size:
        raise BackboneError(
            f"the tokenizer of {source.name} has {len(tokenizer):,} tokens, its model {text.vocab_size:,}; expected "
            f"the tokenizer that the model was trained with."
        )
    if reads == CAUSAL:
        _require_end(ids, source=source, text=text)
    tokens = Tokens(tokenizer, _context_length(source, text=text, tokenizer=tokenizer))
    ends = reads != MASKED and all(row[-1] == tokenizer.eos_token_id for row in ids)
    return LibraryTokenizer(
        tokenize=tokens,
        count=tokens.count,
        context_length=tokens.length,
        end=tokenizer.eos_token_id if ends else None,
        padding=tokenizer.pad_token_id,
        cut=reads != PADDED,
    )


def _require_tokenizer(source: Source) -> None:
    """Raise BackboneError where a folder has no tokenizer, or it needs a package that is not installed."""
    names = {name for name in _TOKENIZER_FILES if (source.folder / name).is_file()}
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


def _context_length(source: Source, *, text: Any, tokenizer: Any) -> int:
    """The most tokens that a text model has positions for, and its tokenizer and training allow."""
    positions = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
    offset = text.pad_token_id + 1 if text.model_type in _OFFSET else 0
    return min(positions - offset, tokenizer.model_max_length, _TRAINED.get(source.kind.name, positions))


def tokenizer_digest(folder: Path) -> str:
    """12 hexadecimal digits of the files that decide how a text becomes ids."""
    return digest_of(folder / name for name in _TOKENIZER_FILES if (folder / name).is_file())[:12]


def describe_tokens(tokens: LibraryTokenizer, *, source: Source, reads: str) -> str:
    """The tokenizer, in words."""
    tokenizer = tokens.tokenize.tokenizer
    with quiet():
        upper, lower = tokenizer([_PROBE_TEXTS[0], _PROBE_TEXTS[0].lower()])["input_ids"]
    case = "lower-cased" if upper == lower else "case kept"
    padding = {CAUSAL: "read up to the end", MASKED: "padding masked", PADDED: "padded to that, no mask"}
    length = f"{tokens.context_length} tokens"
    return f"{type(tokenizer).__name__} {tokenizer_digest(source.folder)}, {length}, {case}, {padding[reads]}"
