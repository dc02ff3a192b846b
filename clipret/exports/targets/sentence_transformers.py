"""A folder of sentence-transformers: that of transformers, and what follows a head's projections in stock modules."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipret.backbones.hf_files import LOCAL
from clipret.backbones.loading import quiet
from clipret.errors import UsageError
from clipret.exports.targets import hf
from clipret.exports.targets.target import Source, Target, Way
from clipret.exports.targets.texts import cleaned
from clipret.heads.base import SIDES, Dense, Normalise
from clipret.heads.linear import LinearHead
from clipret.runs import write_json

Layers = Sequence[Dense | Normalise]
# Where all releases from 5.4 on have their modules.
_MODULES = "sentence_transformers.sentence_transformer.modules"


def refusal(source: Source) -> str | None:
    """Why there is no such folder of the head; None: there is."""
    if _parts(source) is None:
        return f"a head of kind {source.head.kind} does not begin with a projection, or is no chain of dense layers"
    return hf.refusal(_front(source))


def write(source: Source, folder: Path) -> None:
    """The folder of transformers; modules.json, and the modules that it names. Raises UsageError for an old release."""
    try:
        from sentence_transformers.sentence_transformer.modules import Normalize, Router, Transformer
    except ImportError:
        raise UsageError(
            "--to sentence-transformers needs release 5.4 or newer of it; run: pip install -U sentence-transformers"
        ) from None
    hf.write(_front(source), folder)
    with quiet():
        routes = {side: [_module(layer) for layer in layers] for side, (_, *layers) in _parts(source).items()}
        plain = all(isinstance(module, Normalize) for modules in routes.values() for module in modules)
        # The router knows by its modality whether an input is an image or a text.
        last = Normalize() if plain else Router(routes, allow_empty_key=False)
        name = f"1_{type(last).__name__}"
        (folder / name).mkdir()
        last.save(str(folder / name))
        Transformer(str(folder), model_kwargs=dict(LOCAL)).save_config(str(folder))
    if not plain:
        _name_modules(folder / name / Router.config_file_name)
    modules = [("", Transformer), (name, type(last))]
    content = [
        {"idx": place, "name": str(place), "path": path, "type": f"{_MODULES}.{kind.__name__}"}
        for place, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _name_modules(path: Path) -> None:
    """Have a router's config name its modules' classes as all releases from 5.4 on do."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["types"] = {name: f"{_MODULES}.{kind.rpartition('.')[2]}" for name, kind in content["types"].items()}
    write_json(path, content)


def _parts(source: Source) -> dict[str, Layers] | None:
    """image, text -> the layers of a head, the first of which is a projection; None: it has no such layers.

    A bias that the encoder's own projection does not have is a layer of its own: the encoder has no place for it.
    """
    layers = {side: source.head.layers(side) for side in SIDES}
    if any(not part or not isinstance(part[0], Dense) or part[0].relu for part in layers.values()):
        return None
    own = source.backbone.projections()
    for side, (first, *others) in layers.items():
        if first.bias is not None and f"{side}/bias" not in own:
            eye = torch.eye(first.weight.shape[1])
            layers[side] = (Dense(first.weight), Dense(eye, first.bias.detach()), *others)
    return layers


def _front(source: Source) -> Source:
    """The same with a head that is no more than the projections."""
    tensors = {}
    for side, (dense, *_) in _parts(source).items():
        tensors[f"{side}_weight"] = dense.weight
        if dense.bias is not None:
            tensors[f"{side}_bias"] = dense.bias
    return dataclasses.replace(source, head=LinearHead(tensors))


def _module(layer: Dense | Normalise) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense as DenseModule
    from sentence_transformers.sentence_transformer.modules import Normalize

    if isinstance(layer, Normalise):
        return Normalize()
    inputs, outputs = layer.weight.shape
    return DenseModule(
        inputs,
        outputs,
        bias=layer.bias is not None,
        activation_function=nn.ReLU() if layer.relu else nn.Identity(),
        init_weight=layer.weight.T.contiguous(),
        init_bias=layer.bias,
    )


TARGET = Target(
    refusal=refusal,
    write=write,
    ways={
        "sentence-transformers": Way(
            hf.embedded_by_sentence_transformers,
            code=hf.SENTENCES_CODE,
            needs="sentence_transformers",
            clean=cleaned,
            remark=hf.REMARK,
        )
    },
    library="sentence-transformers",
)
