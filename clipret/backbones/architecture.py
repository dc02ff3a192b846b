"""The architecture of a CLIP, from the shapes of its weights; clip has no other description of it."""

from collections.abc import Mapping

import torch

from clipret.backbones.clip_package import import_clip

Shape = tuple[int, ...]

# With clip's text mask of context length squared, this is 64 MiB.
_MOST_POSITIONS = 4096
_MOST_TENSORS = 4000
_VOCABULARY = 49408
# Width of a vision transformer -> the model of open_clip that has it; their attention heads are wider than clip's 64.
_OTHER_HEADS = {1280: "ViT-H-14", 1408: "ViT-g-14", 1664: "ViT-bigG-14"}


def expected_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Name -> shape of all tensors of the model that clip builds for weights of these shapes.

    Raises ValueError when a tensor that decides a size is missing, or clip's model cannot have these sizes.
    """
    if len(shapes) > _MOST_TENSORS:
        raise ValueError(f"holds {len(shapes):,} tensors, more than any CLIP")
    sizes = _Sizes(shapes)
    transformer = any(name.startswith(("visual.transformer.", "visual.class_embedding")) for name in shapes)
    vision = _transformer_sizes(sizes) if transformer else _resnet_sizes(sizes)
    text = (
        sizes.of("positional_embedding", rank=2)[0],
        sizes.of("token_embedding.weight", rank=2)[0],
        width := sizes.of("ln_final.weight", rank=1)[0],
        width // 64,
        len({name.split(".")[2] for name in shapes if name.startswith("transformer.resblocks.")}),
    )
    embedding = sizes.of("text_projection", rank=2)[1]
    sizes.require(vocabulary=text[1], positions=text[0])
    _require_heads("text", width)
    try:
        with torch.device("meta"):
            model = import_clip().model.CLIP(embedding, *vision, *text)
    except (AssertionError, ArithmeticError, RuntimeError, ValueError) as error:
        raise ValueError(f"has tensors of sizes that clip's model cannot have ({error})") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _transformer_sizes(sizes: "_Sizes") -> tuple:
    """Image side, layers, width, patch side."""
    sizes.of("visual.proj", rank=2)
    width, _, _, patch = sizes.of("visual.conv1.weight", rank=4)
    if width in _OTHER_HEADS:
        raise ValueError(
            f"has a vision transformer {width} wide, as open_clip's {_OTHER_HEADS[width]}, whose attention heads are "
            f"wider than the 64 of clip's models; clip would compute other features than that model does"
        )
    _require_heads("vision", width)
    positions = sizes.of("visual.positional_embedding", rank=2)[0]
    layers = sum(name.startswith("visual.") and name.endswith(".attn.in_proj_weight") for name in sizes.shapes)
    return patch * round((positions - 1) ** 0.5), layers, width, patch


def _resnet_sizes(sizes: "_Sizes") -> tuple:
    """Image side, blocks of the four layers, width, no patch."""
    width = sizes.of("visual.layer1.0.conv1.weight", rank=4)[0]
    positions = sizes.of("visual.attnpool.positional_embedding", rank=2)[0]
    blocks = [
        len({name.split(".")[2] for name in sizes.shapes if name.startswith(f"visual.layer{layer}.")})
        for layer in (1, 2, 3, 4)
    ]
    return 32 * round((positions - 1) ** 0.5), tuple(blocks), width, None


def _require_heads(tower: str, width: int) -> None:
    if width < 64 or width % (width // 64):
        raise ValueError(f"has a {tower} transformer {width:,} wide, which has no attention heads of 64 as clip's have")


class _Sizes:
    def __init__(self, shapes: Mapping[str, Shape]):
        self.shapes = shapes

    def of(self, name: str, *, rank: int) -> Shape:
        """The shape of a tensor of `rank` dimensions."""
        if name not in self.shapes:
            raise ValueError(f"lacks {name}; expected every tensor of clip's model, by OpenAI's names")
        shape = self.shapes[name]
        if len(shape) != rank or not all(shape):
            raise ValueError(f"has {name} of shape {shape}; expected {rank} dimensions, none of them 0")
        return shape

    def require(self, *, vocabulary: int, positions: int) -> None:
        if vocabulary < _VOCABULARY:
            raise ValueError(f"has {vocabulary:,} tokens; clip's tokenizer needs {_VOCABULARY:,}")
        if positions > _MOST_POSITIONS:
            raise ValueError(f"reads captions of {positions:,} tokens; clipret takes at most {_MOST_POSITIONS:,}")
