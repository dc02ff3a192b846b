"""One side of an encoder with a head behind it, as an ONNX graph.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from clipret.backbones.library import LibraryBackbone, Slot, identity
from clipret.backbones.loading import quiet
from clipret.backbones.openai import OpenAIClip
from clipret.errors import ExportError
from clipret.exports.targets.target import Source

_LONGEST = 300
_CAPTIONS = ["a photo of a dog", "two red buses near a train on a street"]
# An output called embedding would collide with a node of that name, and the graph would not load.
INPUTS = {"image": "pixels", "text": "input_ids"}
OUTPUTS = {"image": "image_embeds", "text": "text_embeds"}


class Side(nn.Module):
    """Inputs of a side -> (B, E) embeddings of norm 1."""

    def __init__(self, model: nn.Module, encode: Callable, head: nn.Module, embed: Callable):
        """model and head: whose tensors encode and embed use."""
        super().__init__()
        self.model, self.head = model, head
        self._encode, self._embed = encode, embed

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._embed(self._encode(inputs))


class ClipText(nn.Module):
    """(B, L) ids -> (B, D) by clip's own modules: ln_final at the end of text, which is the highest id of all.

    clip itself takes 77 ids alone. Its mask is cut here, as what follows the end changes nothing.
    """

    def __init__(self, model: nn.Module):
        """model: clip's."""
        super().__init__()
        self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
        self.positional_embedding = model.positional_embedding
        self.blocks = model.transformer.resblocks

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        x = (self.token_embedding(ids) + self.positional_embedding[:length]).transpose(0, 1)
        for block in self.blocks:
            values = block.ln_1(x)
            x = x + block.attn(values, values, values, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        x = self.ln_final(x.transpose(0, 1))
        return x[torch.arange(ids.shape[0]), ids.argmax(dim=1)]


def write_graph(source: Source, side: str, *, path: Path) -> None:
    """A side, the head's part and the norm, with any B, and any L where what follows a text's end changes nothing.

    Weights that are too many for one file are put beside it, in NAME.onnx.data.

    Raises ExportError when torch cannot write the encoder or the head as a graph.
    """
    module, inputs = graph_of(source, side), example_of(source, side)
    shape = {0: "batch"} | ({1: "length"} if side == "text" and fixed_length(source) is None else {})
    names = {"input_names": [INPUTS[side]], "output_names": [OUTPUTS[side]]}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module, (inputs,), dynamo=True, verbose=False, dynamic_shapes=({**shape},), **names
            )
    except Exception as error:
        # torch raises nearly anything at what it cannot trace.
        text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise ExportError(
            f"torch cannot write the {side} side of {source.backbone.name} with this head as an ONNX graph: "
            f"{text[:_LONGEST]}"
        ) from None
    _forget_origin(program.model)
    program.save(path)


def graph_of(source: Source, side: str) -> Side:
    """The module that is written."""
    backbone, head = source.backbone, source.head
    embed = head.embed_images if side == "image" else head.embed_texts
    if isinstance(backbone, OpenAIClip):
        model = _without_projection(backbone.model.visual) if side == "image" else ClipText(backbone.model)
        return Side(model, model, head, embed).eval()
    part = backbone.image if side == "image" else backbone.text
    return Side(part.model, part.encode, head, embed).eval()


def example_of(source: Source, side: str) -> torch.Tensor:
    """Two images or texts, as the graph takes them."""
    backbone = source.backbone
    if side == "text":
        return backbone.pad(backbone.tokenize(_CAPTIONS)[0])
    return torch.rand(2, 3, backbone.image_side, backbone.image_side, generator=torch.Generator().manual_seed(0))


def fixed_length(source: Source) -> int | None:
    """L, where the encoder reads the padding too; None: it reads texts up to their ends, and L is any."""
    if isinstance(source.backbone, LibraryBackbone) and not source.backbone.text.tokenizer.cut:
        return source.backbone.context_length
    return None


def _without_projection(visual: nn.Module) -> nn.Module:
    """A copy of clip's image side that returns what goes into its projection."""
    visual = copy.deepcopy(visual)
    if hasattr(visual, "proj"):
        Slot(visual, "proj")
    else:
        # Its weight is read without calling it.
        pool = visual.attnpool
        Slot(pool, "c_proj", empty=identity(pool.c_proj.in_features))
    return visual


def _forget_origin(model) -> None:
    """Remove what torch notes of every node: lines of code, with their places on this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
