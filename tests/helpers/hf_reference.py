"""What transformers itself computes, and what we do, of the same photographs and captions."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from clipret.backbones import load_backbone
from clipret.backbones.hf_files import find_source
from clipret.backbones.loading import quiet
from clipret.errors import BackboneError

CAPTIONS = ["a red dog", "Two MEN ride, on the small train: 3!", "x", "", "it’s “nice” &amp; ﬁne 学"]
# With what some tokenizers take for their own marks.
CAPTIONS += ["[PAD] dog [SEP] red", "a dog <|endoftext|> red", "</s> dog <pad> red"]
LONG = ["the man holds " + "a red dog " * 60, "a man rides"]
_SIZES = [(50, 70), (33, 32), (32, 32), (41, 97), (120, 35), (1, 9), (75, 64)]


def message_of(folder) -> str:
    with pytest.raises(BackboneError) as caught:
        load_backbone(f"hf:{folder}")
    return str(caught.value)


def photographs() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)) for size in _SIZES]


def library_of(folder):
    """The model, its image processor and its tokenizer, as their library loads them."""
    kind = find_source(f"hf:{folder}", download_root=None).kind
    with quiet():
        model = getattr(transformers, kind.name).from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        return model, processor, transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def library_features(folder, captions, *, length) -> dict[str, torch.Tensor]:
    """What the library's own functions make of photographs and captions, used as its documentation uses them."""
    model, processor, tokenizer = library_of(folder)
    padding = "max_length" if isinstance(model, transformers.SiglipModel) else True
    ids = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    if isinstance(model, transformers.SiglipModel):
        ids = {"input_ids": ids["input_ids"]}
    pixels = processor(images=photographs(), return_tensors="pt")
    return {
        "image": model.get_image_features(**pixels).pooler_output,
        "text": model.get_text_features(**ids).pooler_output,
    }


def inputs_of(backbone, captions) -> dict[str, torch.Tensor]:
    pixels = torch.stack([torch.from_numpy(np.array(backbone.crop(image))) for image in photographs()])
    return {"image": pixels, "text": backbone.pad(backbone.tokenize(captions)[0])}


def embeddings_of(backbone, captions) -> dict[str, torch.Tensor]:
    """Features times projection of photographs and captions; which are compared with the library's output as well."""
    head = {name: torch.from_numpy(values) for name, values in backbone.projections().items() if values.ndim}
    embeddings = {}
    for side, inputs in inputs_of(backbone, captions).items():
        features = (backbone.encode_image if side == "image" else backbone.encode_text)(inputs)
        assert features.shape == (len(inputs), backbone.widths[side])
        backbone.require_exact(side, inputs=inputs, features=features)
        embeddings[side] = features.float() @ head[f"{side}/weight"] + head.get(f"{side}/bias", 0)
    return embeddings
