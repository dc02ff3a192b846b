"""A folder of sentence-transformers: that of transformers, and what follows a head's projections in stock modules."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from clipret.backbones.loading import quiet
from clipret.exports.targets import hf
from clipret.exports.targets.target import Source, Target, Way
from clipret.exports.targets.texts import cleaned
from clipret.heads.base import SIDES, Dense, Head, Normalise
from clipret.heads.linear import LinearHead
from clipret.runs import write_json

Layers = Sequence[Dense | Normalise]


def refusal(source: Source) -> str | None:
    """Why there is no such folder of the head; None: there is."""
    if _parts(source.head) is None:
        return f"a head of kind {source.head.kind} does not begin with a projection, or is no chain of dense layers"
    return hf.refusal(_front(source))


def write(source: Source, folder: Path) -> None:
    """The folder of transformers; modules.json, and the modules that it names."""
    from sentence_transformers.base.modules import Normalize, Router, Transformer

    hf.write(_front(source), folder)
    with quiet():
        transformer = Transformer(str(folder), model_kwargs={"local_files_only": True})
        routes = {side: [_module(layer) for layer in layers] for side, (_, *layers) in _parts(source.head).items()}
        plain = all(isinstance(module, Normalize) for modules in routes.values() for module in modules)
        # By its modality a router knows an image from a text.
        last = Normalize() if plain else Router(routes, allow_empty_key=False)
        transformer.save_config(str(folder))
        modules = []
        for place, (module, name) in enumerate([(transformer, ""), (last, f"1_{type(last).__name__}")]):
            kind = type(module)
            modules.append(
                {"idx": place, "name": str(place), "path": name, "type": f"{kind.__module__}.{kind.__name__}"}
            )
        (folder / modules[1]["path"]).mkdir()
        last.save(str(folder / modules[1]["path"]))
    write_json(folder / "modules.json", modules)


def _parts(head: Head) -> dict[str, Layers] | None:
    """image, text -> the layers of a head, the first of which is a projection; None: it has no such layers."""
    layers = {side: head.layers(side) for side in SIDES}
    if any(not part or not isinstance(part[0], Dense) or part[0].relu for part in layers.values()):
        return None
    return layers


def _front(source: Source) -> Source:
    """The same with a head that is no more than the projections."""
    tensors = {}
    for side, (dense, *_) in _parts(source.head).items():
        tensors[f"{side}_weight"] = dense.weight
        if dense.bias is not None:
            tensors[f"{side}_bias"] = dense.bias
    return dataclasses.replace(source, head=LinearHead(tensors))


def _module(layer: Dense | Normalise) -> Any:
    from sentence_transformers.base.modules import Dense as DenseModule
    from sentence_transformers.base.modules import Normalize

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
