"""Files beside the weights in a folder of Hugging Face: tokenizer and preprocessing."""

import json
import shutil
from pathlib import Path
from typing import Any

from clipret.backbones.clip_package import import_clip
from clipret.backbones.hf_tokens import TOKENIZER_FILES
from clipret.backbones.library import LibraryBackbone
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.processors import PROCESSOR_FILES
from clipret.exports.targets.preprocessing import SHORTEST, Preprocessing
from clipret.runs import write_json

_START, _END = "<|startoftext|>", "<|endoftext|>"
# How transformers cuts a text into words for CLIP.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def copy_tokenizer(backbone: OpenAIClip | LibraryBackbone, folder: Path) -> None:
    """Copy the files of a model's tokenizer; tokenizer_config.json then says all that clipret does with it."""
    for name in TOKENIZER_FILES:
        if (backbone.origin.folder / name).is_file():
            shutil.copyfile(backbone.origin.folder / name, folder / name)
    tokens = backbone.own_tokenizer if isinstance(backbone, OpenAIClip) else backbone.text.tokenizer
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings |= {"model_max_length": tokens.context_length, "padding_side": "right", "truncation_side": "right"}
    # Where a tokenizer has none, clipret pads with the end of text.
    settings.setdefault("pad_token", tokens.tokenize.tokenizer.pad_token)
    if not tokens.cut:
        # The model reads its padding, without a mask.
        settings["model_input_names"] = ["input_ids"]
    write_json(path, settings)


def copy_processor(backbone: OpenAIClip | LibraryBackbone, folder: Path) -> None:
    """Copy the files of a model's image processor."""
    for name in PROCESSOR_FILES:
        if (backbone.origin.folder / name).is_file():
            shutil.copyfile(backbone.origin.folder / name, folder / name)


def write_tokenizer(folder: Path, *, context_length: int) -> None:
    """clip's own tokenizer, but for its clean-up of texts, in the files that old and new transformers read."""
    tokenizer = import_clip().clip._tokenizer
    # Of clip's tables alone: any release of transformers writes the same.
    merges = [pair for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    _tokenizer(tokenizer.encoder, merges).save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    write_json(folder / "special_tokens_map.json", tokens)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", settings | tokens | {"errors": "replace", "add_prefix_space": False})


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """As transformers makes CLIP's of vocab.json and merges.txt."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    model = models.BPE(
        vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=_END
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    start, end = ((token, vocabulary[token]) for token in (_START, _END))
    # Their names differ between releases of tokenizers.
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (_START, _END)])
    return tokenizer


def write_processor(folder: Path, seen: Preprocessing) -> None:
    """preprocessor_config.json, which every release of transformers reads, and processor_config.json of the newer."""
    square = {"height": seen.side, "width": seen.side}
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": seen.side} if seen.mode == SHORTEST else square,
        "resample": _RESAMPLE[seen.interpolation],
        "do_center_crop": seen.mode == SHORTEST,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(seen.mean),
        "image_std": list(seen.std),
        "do_convert_rgb": True,
    }
    own = {"processor_class": "CLIPProcessor"}
    write_json(folder / "preprocessor_config.json", settings | own)
    write_json(folder / "processor_config.json", own | {"image_processor": settings})
