"""OpenAI's CLIP, frozen: preprocessing, tokens, penultimate features, initial projections.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch

from clipret.backbones.checkpoints import read_context_length
from clipret.backbones.clip_package import ClipFirst, build_clip, import_clip, library_version
from clipret.backbones.exactness import require_equal
from clipret.backbones.kernels import Arithmetic, choose_kernels, whole_float32
from clipret.backbones.last_blocks import clip_weights, last_blocks
from clipret.backbones.origin import Origin
from clipret.backbones.pixels import CLIP_RESIZE, Crop, Normaliser, colour_of, split_transform
from clipret.backbones.resnet import ImageResNet
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.tokens import Tokenizer, pad
from clipret.backbones.towers import ImageTransformer, TextTransformer
from clipret.backbones.weights import checkpoint_path, load_weights
from clipret.machine.last_blocks import LastBlock


def load(name: str, *, device: str, precision: str, compiled: bool, download_root: Path | None) -> "OpenAIClip":
    """A frozen CLIP by one of OpenAI's names, a bundled one or the path of a checkpoint; see load_backbone.

    precision  float32, float16 or bfloat16, which the device can compute in
    """
    sha256, (model, preprocess) = load_weights(name, device=device, download_root=download_root)
    if precision != "float16":
        # The model in float16, as clip loads it on CUDA, is the reference for float16 only.
        model.float()
    return OpenAIClip(name, sha256, library_version(), model.eval(), preprocess, precision, compiled)


def as_openai(
    weights: Mapping[str, torch.Tensor],
    *,
    preprocess: Callable,
    preprocessing: str,
    precision: str,
    device: str,
    **about,
) -> "OpenAIClip":
    """A model of OpenAI's architecture that another library loaded, in our own towers.

    weights        by clip's names, float32: they are not rounded to float16 unless the precision is that
    preprocess     PIL image -> (3, S, S), whose last two steps are ToTensor and Normalize
    preprocessing  the same in words
    about          name, family, library, weights_sha256, compiled, details, own_tokenizer, origin of an OpenAIClip
    """
    model, _ = build_clip(weights)
    if precision != "float16":
        model.float().load_state_dict(weights, strict=False)
    model = model.to(device).eval()
    return OpenAIClip(model=model, preprocess=preprocess, precision=precision, transform=preprocessing, **about)


def load_tokenizer(name: str, *, download_root: Path | None) -> Tokenizer:
    """clip's tokenizer with the model's context length. Reads only the shapes in a checkpoint; downloads nothing.

    Raises BackboneError when the name is unknown, or the file is not a CLIP checkpoint.
    """
    if name in import_clip().available_models():
        return Tokenizer()
    return Tokenizer(context_length=read_context_length(checkpoint_path(name)))


@dataclass(frozen=True, eq=False)
class OpenAIClip:
    """A frozen CLIP, a protocol.Backbone. Can be pickled: what is derived from the fields is derived again.

    name            as given to --model: an OpenAI name, a bundled name or a path
    weights_sha256  of the checkpoint file
    library         the distribution that provides `clip`, with its version
    model           clip's own module, in eval mode: provides the weights and the reference output
    preprocess      clip's own transform: PIL image -> (3, S, S) float32
    precision       type that the towers compute in: float32, float16 as clip loads them on CUDA, or bfloat16
    compiled        whether the towers go through torch.compile
    family          its row of FAMILIES
    transform       what preprocess does, in words; clip: clip's own
    details         as of a Backbone
    own_tokenizer   the other library's, for the same vocabulary; None: clip's
    origin          what the other library reads beside the weights; None: it is clip's
    """

    name: str
    weights_sha256: str
    library: str
    model: torch.nn.Module
    preprocess: Callable
    precision: str = "float32"
    compiled: bool = False
    family: str = "openai"
    transform: str = "clip"
    details: Mapping[str, str] = field(default_factory=dict)
    own_tokenizer: LibraryTokenizer | None = None
    origin: Origin | None = None

    def __reduce__(self):
        return _restore, (ClipFirst(), *(getattr(self, part.name) for part in fields(self)))

    @property
    def preprocessing(self) -> str:
        """How an image becomes pixels, in words."""
        return f"clip {self.image_side} px" if self.transform == "clip" else self.transform

    @property
    def widths(self) -> dict[str, int]:
        """image, text -> D."""
        projections = self.projections()
        return {side: len(projections[f"{side}/weight"]) for side in ("image", "text")}

    @property
    def image_side(self) -> int:
        """S: height and width of the pixels that the image tower takes."""
        return self.model.visual.input_resolution

    @property
    def context_length(self) -> int:
        """The most tokens that the text tower reads, start and end included."""
        return self.model.context_length

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """Of clip's normalisation."""
        return colour_of(self.preprocess.transforms[-1].mean)

    @property
    def resizes_as_clip(self) -> bool:
        """Whether `preprocess` is clip's own, or says the same."""
        return self.transform == "clip" or self.transform.startswith(f"{self.image_side} {CLIP_RESIZE}")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.text_projection.device

    @property
    def kernels(self) -> str:
        """What multiplies matrices: "oneDNN" or "torch". The two differ in the last bits of the features."""
        return self._arithmetic.kernels

    @functools.cached_property
    def crop(self) -> Crop:
        """clip's own transform without its last two steps: PIL image -> PIL RGB image of S x S."""
        return split_transform(self.preprocess, name=self.name)[0]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | LibraryTokenizer:
        """The tokenizer; can be pickled without the model."""
        return self.own_tokenizer or Tokenizer(context_length=self.context_length)

    @torch.no_grad()
    def prepare(self) -> None:
        """Compute all cached properties: processes forked after this share them."""
        for name in ("crop", "_normaliser", "_encode_pixels", "_encode_ids", "tokenizer"):
            getattr(self, name)

    @torch.inference_mode()
    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S): clip's ToTensor and Normalize, bit for bit, as clip's own model takes it.

        In channels_last order, float32 or, where clip's model is float16, rounded to that.
        """
        values = self._normaliser(pixels.to(self.device).flatten(2)).view(pixels.shape)
        return values.permute(0, 3, 1, 2).to(self.model.dtype)

    @property
    def last_blocks(self) -> dict[str, LastBlock]:
        """image, text -> the last block."""
        return last_blocks(self.model)

    def with_last_blocks(self, blocks: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]]) -> "OpenAIClip":
        """The same encoder with other last blocks.

        blocks  side -> form and parts, as last_blocks has them
        """
        model = copy.deepcopy(self.model)
        for side, (form, parts) in blocks.items():
            weights = clip_weights(side, form, parts, model=model)
            unknown = model.load_state_dict(weights, strict=False).unexpected_keys
            assert not unknown, unknown
        return replace(self, model=model)

    @torch.inference_mode()
    def encode_image(self, pixels: torch.Tensor, *, tokens: bool = False) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, D) penultimate features on the model's device, float32, or float16 with fp16.

        Vision transformer: the class token after ln_post, the input of visual.proj. ResNet: the attention-pooled
        vector, the input of visual.attnpool.c_proj.

        tokens  (B, D + L W) instead: behind the features, the same to the bit, the L tokens of width W that go into the
                last block; of a ResNet into the attention of its pool, the mean of all positions first
        """
        assert pixels.dtype == torch.uint8
        pixels = pixels.to(self.device, non_blocking=True)
        encode = self._encode_pixels_too if tokens else self._encode_pixels
        return self._in_pieces(pixels, most=self._image_tower.piece, encode=encode)

    @torch.inference_mode()
    def encode_text(self, ids: torch.Tensor, *, tokens: bool = False) -> torch.Tensor:
        """(B, L) token ids, L at most context_length -> (B, D) penultimate features, of the type of encode_image.

        ln_final at the end-of-text position, the input of text_projection. L changes no feature beyond rounding.

        tokens  (B, D + L W) instead, as of encode_image; those behind the end of the text are of no use
        """
        ids = ids.to(self.device, torch.int64, non_blocking=True)
        encode = self._encode_ids_too if tokens else self._encode_ids
        return self._in_pieces(ids, most=self._text_tower.piece(ids.shape[1]), encode=encode)

    @torch.inference_mode()
    def finish(self, side: str, tokens: torch.Tensor) -> torch.Tensor:
        """The features (B, D) of tokens (B, L, W) as encode_image and encode_text have them, all rows as long.

        Of captions the last token is that of the end.
        """
        tokens = tokens.to(self.device, self._arithmetic.stream)
        with whole_float32(self.device):
            if side == "image":
                return self._image_tower.finish(tokens)
            ends = torch.full((len(tokens),), tokens.shape[1] - 1, device=self.device)
            return self._text_tower.finish(tokens, ends=ends)

    def tokenize(self, captions: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of the captions, equal to clip.tokenize(truncate=True), or the other library's; (B,) int64 counts before.

        An array is as long as its caption, start and end included.
        """
        return self.tokenizer(captions)

    def pad(self, tokens: list[np.ndarray]) -> torch.Tensor:
        """Ids of B captions -> (B, L) int64, L the longest of them, padded with zeros like clip's."""
        return pad(tokens)

    def projections(self) -> dict[str, np.ndarray]:
        """CLIP's own head in float32: image/weight (D_i, E), text/weight (D_t, E), logit_scale, ResNets' image/bias."""
        visual, tensors = self.model.visual, {}
        if hasattr(visual, "proj"):
            tensors["image/weight"] = visual.proj
        else:
            tensors["image/weight"] = visual.attnpool.c_proj.weight.T
            tensors["image/bias"] = visual.attnpool.c_proj.bias
        tensors["text/weight"] = self.model.text_projection
        tensors["logit_scale"] = self.model.logit_scale
        return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in tensors.items()}

    @torch.inference_mode()
    def require_exact(self, side: str, *, inputs: torch.Tensor, features: torch.Tensor) -> None:
        """Raise BackboneError unless features times projection equals clip's own output for the inputs.

        side      image or text
        inputs    pixels or token ids, as for encode_image and encode_text
        features  result of encode_image or encode_text
        """
        if side == "image":
            encode, prepared = self.model.encode_image, self.normalise(inputs)
        else:
            encode = self.model.encode_text
            prepared = torch.nn.functional.pad(inputs, (0, self.context_length - inputs.shape[1])).to(self.device)
        with whole_float32(self.device):
            reference = encode(prepared)
        head = {name: torch.from_numpy(value).to(self.device) for name, value in self.projections().items()}
        ours = features.to(self.device, torch.float32) @ head[f"{side}/weight"] + head.get(f"{side}/bias", 0)
        what, dtype = f"{side} features of {self.name} times its projection", self._arithmetic.dtype
        require_equal(ours, reference, what=what, source="clip", library=self.library, dtype=dtype)

    def _in_pieces(self, inputs: torch.Tensor, *, most: int, encode: Callable) -> torch.Tensor:
        """Encode a batch; on the CPU in equal pieces that fit its caches, which depend only on the batch's shape."""
        if self.device.type != "cpu" or len(inputs) <= most:
            with whole_float32(self.device):
                return encode(inputs)
        count = -(-len(inputs) // most)
        return torch.cat([encode(piece) for piece in inputs.split(-(-len(inputs) // count))])

    @functools.cached_property
    def _arithmetic(self) -> Arithmetic:
        dtype = getattr(torch, self.precision)
        return Arithmetic(dtype, choose_kernels(self.device, dtype=dtype, compiled=self.compiled))

    @functools.cached_property
    def _normaliser(self) -> Normaliser:
        return Normaliser(split_transform(self.preprocess, name=self.name)[1], device=self.device)

    @functools.cached_property
    def _image_tower(self) -> ImageTransformer | ImageResNet:
        kind = ImageTransformer if hasattr(self.model.visual, "proj") else ImageResNet
        return kind(self.model.visual, normalise=self._normaliser, arithmetic=self._arithmetic)

    @functools.cached_property
    def _text_tower(self) -> TextTransformer:
        return TextTransformer(self.model, arithmetic=self._arithmetic)

    @functools.cached_property
    def _encode_pixels(self) -> Callable:
        return self._compiled(self._image_tower)

    @functools.cached_property
    def _encode_ids(self) -> Callable:
        return self._compiled(self._text_tower)

    @functools.cached_property
    def _encode_pixels_too(self) -> Callable:
        return self._compiled(self._image_tower.with_tokens)

    @functools.cached_property
    def _encode_ids_too(self) -> Callable:
        return self._compiled(self._text_tower.with_tokens)

    def _compiled(self, tower: Callable) -> Callable:
        return torch.compile(tower.__call__, dynamic=True) if self.compiled else tower


def _restore(_, *values) -> OpenAIClip:
    return OpenAIClip(*values)
