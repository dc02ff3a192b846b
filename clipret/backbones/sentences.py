"""sentence-transformers' text encoders, up to their normalisation: st/NAME, st/ORG/NAME of the hub, st/FOLDER."""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipret.backbones.exactness import require_equal
from clipret.backbones.hf_files import LOCAL, Source, find_model, load_files, read_config, weights_of
from clipret.backbones.hf_kinds import CONFIG, MASKED
from clipret.backbones.hf_tokens import Tokens, context_length, describe_tokens, open_tokenizer
from clipret.backbones.hub import digest_of, find_folder, weight_files
from clipret.backbones.library import TextSide
from clipret.backbones.loading import explained, require_weights
from clipret.backbones.sizes import require_size
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.unimodal import Half, mask_tokenizer, masked, pad_right, revision_of
from clipret.errors import BackboneError

_MODULES, _SETTINGS, _PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_LIBRARY, _OPTION = "sentence_transformers", "pair:IMAGE+st/FOLDER"
# Their names on the hub have no organisation where it is this one.
_ORGANISATION = "sentence-transformers"
_NESTED_WEIGHTS = ("[0-9]_*/*.safetensors", "[0-9]_*/pytorch_model.bin")
# Compared with the library's own output for them, whatever comes before and after.
_PROBES = ("a photo of a red dog", "Two", "dog " * 40, "people who stand near a train on a street in the rain")


def load_text(name: str, *, download_root: Path | None) -> Half:
    """The text half by what follows st/. Raises BackboneError."""
    folder, revision = _folder(name, download_root)
    inner = _inner(folder, name=name)
    tokens, files = _tokens(folder, inner), weights_of(inner.folder)
    files += [file for path in _paths(folder)[1:] for file in weight_files(folder / path)]
    with explained(_LIBRARY, name):
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel

        config = read_config(inner)
        require_size(lambda: AutoModel.from_config(config), config=inner.folder / CONFIG, files=files)
        model = SentenceTransformer(str(folder), device="cpu", **LOCAL)
        model.float().eval()
    transformer = model[0].auto_model
    kind, loaded = type(transformer), load_files(type(transformer), inner)
    # A pooler of transformers' own is not used.
    missing = [weight for weight in loaded.missing if not weight.startswith("pooler.")]
    require_weights(missing, name=name, kind=kind.__name__, resized=loaded.resized)
    _require_whole_pooling(model, name=name, prompt=tokens.prompt)
    model, tokenizer = _without_normalisation(model), mask_tokenizer(tokens)
    encode = functools.partial(_features, model=model, padding=tokens.tokenizer.pad_token_id)
    library, settings = f"sentence-transformers {version('sentence-transformers')}", {"show_progress_bar": False}
    with explained(_LIBRARY, name), torch.inference_mode():
        features = encode(tokenizer.pad(tokenizer(list(_PROBES))[0]))
        expected = model.encode(list(_PROBES), convert_to_tensor=True, normalize_embeddings=False, **settings)
    words = {"what": f"features of {name}", "source": "the library", "library": library}
    require_equal(features, expected, **words, dtype=torch.float32)
    side = TextSide(
        model=model, encode=encode, reference=encode, slot=None, width=features.shape[1], tokenizer=tokenizer
    )
    details = {
        "text_encoder": f"{kind.__name__}, configs {_configs(folder, inner.folder)}",
        "tokenizer": describe_tokens(tokens, source=inner, reads=MASKED),
        "text_pooling": _pooling(model),
        **({"text_prompt": tokens.prompt} if tokens.prompt else {}),
        **revision_of("text", revision),
    }
    return Half(side, library, files, details)


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The tokenizer of a text half; no weights are read. Raises BackboneError."""
    folder, _ = _folder(name, download_root)
    return mask_tokenizer(_tokens(folder, _inner(folder, name=name)))


def _tokens(folder: Path, inner: Source) -> Tokens:
    """Ids as the library makes them of texts, by the files that it reads."""
    settings, prompts = _read(inner.folder / _SETTINGS), _read(folder / _PROMPTS)
    tokenizer = pad_right(open_tokenizer(inner), name=inner.name)
    length = settings.get("max_seq_length") or context_length(read_config(inner), tokenizer=tokenizer)
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name")) or ""
    return Tokens(tokenizer, int(length), prompt, lower_case=bool(settings.get("do_lower_case")))


def _folder(name: str, root: Path | None) -> tuple[Path, str]:
    repository = name if "/" in name else f"{_ORGANISATION}/{name}"
    folder, revision = find_folder(name, repository=repository, option=_OPTION, cache=root, also=_NESTED_WEIGHTS)
    if not (folder / _MODULES).is_file():
        raise BackboneError(
            f"{folder} has no {_MODULES}; expected a folder as sentence-transformers saves it. A text encoder of "
            f"transformers is given as hf/FOLDER."
        )
    return folder, revision


def _inner(folder: Path, *, name: str) -> Source:
    """The first module, a transformer; classes of other packages are refused before they are imported."""
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
    # A folder, and never a name of the hub.
    return find_model(str(inner.absolute()), option=_OPTION, download_root=None)._replace(name=name)


def _paths(folder: Path) -> list[str]:
    return [module["path"] for module in _read(folder / _MODULES)]


def _configs(folder: Path, inner: Path) -> str:
    """12 hexadecimal digits of all that decides what the modules compute with the same weights."""
    files = [folder / _MODULES, inner / CONFIG, inner / _SETTINGS]
    files += [folder / path / CONFIG for path in _paths(folder)[1:]]
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


def _require_whole_pooling(model: nn.Module, *, name: str, prompt: str) -> None:
    """Raise BackboneError where the model leaves its prompt out of the pooling."""
    if prompt and any(getattr(module, "include_prompt", True) is False for module in model):
        raise BackboneError(f"{name} leaves its prompt '{prompt}' out of the pooling, which clipret does not do.")


def _features(ids: torch.Tensor, *, model: nn.Module, padding: int) -> torch.Tensor:
    return model(masked(ids, padding=padding))["sentence_embedding"]


def _pooling(model: nn.Module) -> str:
    """The modules behind the transformer, in words: Pooling mean, Dense."""
    words = []
    for module in list(model)[1:]:
        mode = getattr(module, "pooling_mode", None) or getattr(module, "get_pooling_mode_str", lambda: "")()
        mode = mode if isinstance(mode, str) else "+".join(mode)
        words.append(f"{type(module).__name__} {mode}".strip())
    return ", ".join(words) or "none"
