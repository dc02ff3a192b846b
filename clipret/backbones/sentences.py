"""sentence-transformers' text encoders, up to their normalisation: st/NAME, st/ORG/NAME of the hub, st/FOLDER."""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipret.backbones.hf_tokens import tokenizer_digest
from clipret.backbones.hub import digest_of, weight_files
from clipret.backbones.library import TOLERANCE, TextSide, measure_width
from clipret.backbones.sizes import require_size
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.unimodal import (
    PADDING,
    Half,
    calm,
    find_folder,
    masked,
    pad_ids,
    require_complete,
    require_weights,
)
from clipret.errors import BackboneError

_MODULES, _SETTINGS, _PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_LIBRARY = "sentence_transformers"
# Their names on the hub have no organisation where it is this one.
_ORGANISATION = "sentence-transformers"
_NESTED_WEIGHTS = ("[0-9]_*/*.safetensors", "[0-9]_*/pytorch_model.bin")
# Compared with the library's own output for them, whatever comes before and after.
_PROBES = ("a photo of a red dog", "two", "people who stand near a train on a street in the rain")


def load_text(name: str, *, download_root: Path | None) -> Half:
    """The text half by what follows st/. Raises BackboneError."""
    folder, revision = _folder(name, download_root)
    inner = _inner(folder)
    files = require_weights(inner, expected="model.safetensors beside config.json")
    files += [file for path in _paths(folder)[1:] for file in weight_files(folder / path)]
    with calm(_LIBRARY, name):
        from sentence_transformers import SentenceTransformer
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(str(inner), trust_remote_code=False, local_files_only=True)
        require_size(lambda: AutoModel.from_config(config), config=inner / "config.json", files=files)
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)
        model.float().eval()
        transformer = model[0].auto_model
        _, information = type(transformer).from_pretrained(str(inner), output_loading_info=True, local_files_only=True)
    # A pooler of transformers' own is not used.
    missing = sorted(key for key in information["missing_keys"] if not key.startswith("pooler."))
    require_complete(missing, what=name)
    model, prompt = _without_normalisation(model), _prompt(model, name=name)
    tokenizer = _prepared(model.tokenizer)
    tokens = LibraryTokenizer(
        tokenize=functools.partial(_tokenize, model=model, prompt=prompt),
        count=functools.partial(_count, tokenizer=tokenizer, prompt=prompt),
        context_length=int(model.max_seq_length),
        end=None,
        padding=PADDING,
        cut=True,
    )
    encode = functools.partial(_features, model=model, padding=tokenizer.pad_token_id)
    with calm(_LIBRARY, name):
        width = measure_width(encode, tokens.pad(tokens(["two"])[0]))
        _require_equal(model, name, ours=encode(tokens.pad(tokens(list(_PROBES))[0])))
    side = TextSide(model=model, encode=encode, reference=encode, slot=None, width=width, tokenizer=tokens)
    details = {
        "text_encoder": f"{type(transformer).__name__}, configs {_configs(folder, inner)}",
        "tokenizer": f"{type(tokenizer).__name__} {tokenizer_digest(inner)}, {tokens.context_length:,} tokens",
        "text_pooling": _pooling(model),
        **({"text_prompt": prompt} if prompt else {}),
        **({"text_revision": revision} if revision else {}),
    }
    return Half(side, f"sentence-transformers {version('sentence-transformers')}", files, details)


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The tokenizer of a text half; no weights are read. Raises BackboneError."""
    folder, _ = _folder(name, download_root)
    inner = _inner(folder)
    settings, prompts = (_read(inner / _SETTINGS), _read(folder / _PROMPTS))
    with calm(_LIBRARY, f"the tokenizer of {name}"):
        from transformers import AutoTokenizer

        tokenizer = _prepared(AutoTokenizer.from_pretrained(str(inner), trust_remote_code=False, local_files_only=True))
    length = settings.get("max_seq_length")
    if length is None:
        positions = _read(inner / "config.json").get("max_position_embeddings")
        length = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name")) or ""
    lower = bool(settings.get("do_lower_case"))
    return LibraryTokenizer(
        tokenize=functools.partial(
            _tokenize_plainly, tokenizer=tokenizer, prompt=prompt, lower=lower, length=int(length)
        ),
        count=functools.partial(_count, tokenizer=tokenizer, prompt=prompt),
        context_length=int(length),
        end=None,
        padding=PADDING,
        cut=True,
    )


def _folder(name: str, root: Path | None) -> tuple[Path, str]:
    repository = name if "/" in name else f"{_ORGANISATION}/{name}"
    folder, revision = find_folder(
        name, repository=repository, option="pair:IMAGE+st/FOLDER", cache=root, also=_NESTED_WEIGHTS
    )
    if not (folder / _MODULES).is_file():
        raise BackboneError(
            f"{folder} has no {_MODULES}; expected a folder as sentence-transformers saves it. A text encoder of "
            f"transformers is given as hf/FOLDER."
        )
    return folder, revision


def _inner(folder: Path) -> Path:
    """The folder of the first module, a transformer; classes of other packages are refused before they are imported."""
    try:
        modules = json.loads((folder / _MODULES).read_text(encoding="utf-8"))
        kinds = [module["type"] for module in modules]
        inner = folder / modules[0]["path"]
    except (ValueError, LookupError, TypeError):
        raise BackboneError(f"{folder / _MODULES} is not what sentence-transformers writes; copy it again.") from None
    strange = [kind for kind in kinds if not str(kind).startswith(f"{_LIBRARY}.")]
    if strange:
        raise BackboneError(
            f"{folder / _MODULES} names {strange[0]}, code that is not sentence-transformers' own and is not run; take "
            f"a model without such code."
        )
    if str(kinds[0]).rpartition(".")[2] != "Transformer":
        raise BackboneError(
            f"the first module of {folder} is {kinds[0]}; expected a Transformer: other kinds are not supported."
        )
    return inner


def _paths(folder: Path) -> list[str]:
    return [module["path"] for module in _read(folder / _MODULES)]


def _configs(folder: Path, inner: Path) -> str:
    """12 hexadecimal digits of all that decides what the modules compute with the same weights."""
    files = [folder / _MODULES, inner / "config.json", inner / _SETTINGS]
    files += [folder / path / "config.json" for path in _paths(folder)[1:]]
    return digest_of(file for file in files if file.is_file())[:12]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise BackboneError(f"{path} is not JSON; copy it again.") from None


def _without_normalisation(model: nn.Module) -> nn.Module:
    """The model without the Normalize that it may end with."""
    while type(model[-1]).__name__ == "Normalize":
        del model[-1]
    return model


def _prompt(model: nn.Module, *, name: str) -> str:
    """What the model puts before every text by itself."""
    prompt = model.prompts.get(model.default_prompt_name) or "" if model.default_prompt_name else ""
    if prompt and any(getattr(module, "include_prompt", True) is False for module in model):
        raise BackboneError(f"{name} leaves its prompt '{prompt}' out of the pooling, which clipret does not do.")
    return prompt


def _prepared(tokenizer: Any) -> Any:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer {type(tokenizer).__name__} has no token for padding; take another model.")
    return tokenizer


def _tokenize(texts: list[str], *, model: nn.Module, prompt: str) -> torch.Tensor:
    """Ids as the library itself has them."""
    texts = [prompt + text for text in texts]
    # Its name since sentence-transformers 5.3.
    prepared = model.preprocess(texts) if hasattr(model, "preprocess") else model.tokenize(texts)
    rows = zip(prepared["input_ids"], prepared["attention_mask"].bool(), strict=True)
    return pad_ids([ids[mask].tolist() for ids, mask in rows])


def _tokenize_plainly(texts: list[str], *, tokenizer: Any, prompt: str, lower: bool, length: int) -> torch.Tensor:
    texts = [prompt + (text.lower() if lower else text) for text in texts]
    return pad_ids(tokenizer(texts, truncation=True, max_length=length)["input_ids"])


def _count(texts: list[str], *, tokenizer: Any, prompt: str) -> list[int]:
    texts = [prompt + text for text in texts]
    return [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def _features(ids: torch.Tensor, *, model: nn.Module, padding: int) -> torch.Tensor:
    return model(masked(ids, padding=padding))["sentence_embedding"]


@torch.inference_mode()
def _require_equal(model: nn.Module, name: str, *, ours: torch.Tensor) -> None:
    """Raise BackboneError unless ours, of _PROBES, are what the library itself makes of them."""
    theirs = model.encode(list(_PROBES), convert_to_tensor=True, normalize_embeddings=False, show_progress_bar=False)
    error = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)).item()
    if not error <= TOLERANCE[torch.float32]:
        raise BackboneError(
            f"features of {name} differ from sentence-transformers' own encode by {error:.1e} (relative); clipret does "
            f"not support this model."
        )


def _pooling(model: nn.Module) -> str:
    """The modules behind the transformer, in words: Pooling mean, Dense."""
    words = []
    for module in list(model)[1:]:
        mode = getattr(module, "pooling_mode", None) or getattr(module, "get_pooling_mode_str", lambda: "")()
        mode = mode if isinstance(mode, str) else "+".join(mode)
        words.append(f"{type(module).__name__} {mode}".strip())
    return ", ".join(words) or "none"
