"""Small encoders of images alone and of text alone with random weights, in folders as their own libraries save them."""

import functools
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.backbones.loading import explained
from tests.conftest import randomise

SIDE, CONTEXT = 28, 24
CAPTIONS = ["red dog", "a smiling face with sunglasses and three red hearts", "x", " Two  Dogs! "]
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class PairModels:
    """Name of a function below -> the folder that it made, made when it is first asked for."""

    def __init__(self, folder: Path):
        self._folder, self._folders = folder, {}

    def __getitem__(self, name: str) -> Path:
        if name not in self._folders:
            self._folders[name] = MAKERS[name](self._folder / name)
        return self._folders[name]

    def pair(self, image: str = "timm_dinov2", text: str = "minilm") -> str:
        """The name of a pair, as --model takes it."""
        library = "st" if text.startswith("minilm") else "hf"
        return f"pair:{image.partition('_')[0]}/{self[image]}+{library}/{self[text]}"


def timm_dinov2(folder: Path) -> Path:
    """A DINOv2 as timm has it: register-free, no classifier, the class token behind a norm."""
    arguments = {"img_size": SIDE, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return _timm(folder, "vit_small_patch14_dinov2", arguments)


def timm_convnext(folder: Path) -> Path:
    """A ConvNeXt with a classifier of seven classes, and an own crop and statistics."""
    arguments = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 7}
    config = {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.8}
    return _timm(folder, "convnext_atto", arguments, config={**config, "interpolation": "bilinear", "num_classes": 7})


def hf_dinov2(folder: Path) -> Path:
    """A DINOv2 as transformers has it."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=14)
    )
    with explained("transformers", "it"):
        _scale_layers(randomise(model)).save_pretrained(folder)
        BitImageProcessor(
            size={"shortest_edge": 32},
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ).save_pretrained(folder)
    return folder


def hf_vit(folder: Path) -> Path:
    """A ViT without a pooler, as a checkpoint of a classifier has none, whose images are squashed."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=16
    )
    with explained("transformers", "it"):
        randomise(ViTForImageClassification(config)).save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def hf_bert(folder: Path, *, pooler: bool = True) -> Path:
    """A BERT of transformers."""
    from transformers import BertModel

    torch.manual_seed(3)
    with explained("transformers", "it"):
        randomise(BertModel(_bert(), add_pooling_layer=pooler)).save_pretrained(folder)
    words(folder).save_pretrained(folder)
    return folder


def hf_t5(folder: Path) -> Path:
    """A T5, of which the encoder alone is taken."""
    from transformers import T5Config, T5Model

    torch.manual_seed(4)
    config = T5Config(vocab_size=len(_vocabulary()), d_model=24, d_ff=48, d_kv=12, num_heads=2, num_layers=2)
    with explained("transformers", "it"):
        T5Model(config).eval().save_pretrained(folder)
    words(folder).save_pretrained(folder)
    return folder


def minilm(folder: Path, *, dense: bool = False, prompt: str = "") -> Path:
    """What all-MiniLM-L6-v2 is: BERT, mean pooling, Normalize; dense: with a Dense before the last."""
    hf_bert(folder / "bert", pooler=False)
    torch.manual_seed(5)
    with explained("sentence_transformers", "it"):
        import sentence_transformers
        from sentence_transformers import models

        transformer = models.Transformer(str(folder / "bert"), max_seq_length=CONTEXT)
        added = [models.Dense(32, 20)] if dense else []
        modules = [transformer, models.Pooling(32, "mean"), *added, models.Normalize()]
        settings = {"prompts": {"retrieval": prompt}, "default_prompt_name": "retrieval"} if prompt else {}
        model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **settings)
        model.save(str(folder / "st"), create_model_card=False)
    return folder / "st"


def words(folder: Path):
    """A lower-casing WordPiece tokenizer of the emoji's words."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(_vocabulary()))
    return BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True, model_max_length=CONTEXT)


@functools.cache
def _vocabulary() -> list[str]:
    from tokenizers import BertWordPieceTokenizer

    from clipret.datasets.emoji import english_names

    captions = [name for names in english_names().values() for name in names]
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(captions, vocab_size=1200, special_tokens=list(_SPECIAL), show_progress=False)
    return sorted(trainer.get_vocab(), key=trainer.get_vocab().get)


def _bert():
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )


@torch.no_grad()
def _scale_layers(model: torch.nn.Module) -> torch.nn.Module:
    """DINOv2's and ConvNeXt's layer scales begin near 0, and then hardly a feature depends on its image."""
    for name, parameter in model.named_parameters():
        if "gamma" in name or "lambda1" in name:
            parameter.fill_(0.5)
    return model


def _timm(folder: Path, architecture: str, arguments: dict, *, config: dict | None = None) -> Path:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    logging.getLogger("timm").setLevel(logging.ERROR)
    model = randomise(timm.create_model(architecture, **arguments))
    _scale_layers(model)
    settings = {"input_size": (3, SIDE, SIDE), **(config or {})}
    model.pretrained_cfg = {**dict(model.pretrained_cfg), **settings}
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder


MAKERS = {
    "timm_dinov2": timm_dinov2,
    "timm_convnext": timm_convnext,
    "hf_dinov2": hf_dinov2,
    "hf_vit": hf_vit,
    "bert": hf_bert,
    "bert_without_pooler": functools.partial(hf_bert, pooler=False),
    "t5": hf_t5,
    "minilm": minilm,
    "minilm_dense": functools.partial(minilm, dense=True, prompt="query: "),
}


def pictures():
    """Of several shapes and modes."""
    generator = np.random.default_rng(0)
    shapes = [(50, 71, 3), (72, 72, 4), (33, 28, 3), (90, 40)]
    return [Image.fromarray(generator.integers(0, 256, size=shape, dtype=np.uint8)) for shape in shapes]


def image_features(backbone):
    """Of the pictures, compared with the library's own."""
    pixels = torch.stack([torch.from_numpy(np.asarray(backbone.crop(image)).copy()) for image in pictures()])
    features = backbone.encode_image(pixels)
    backbone.require_exact("image", inputs=pixels, features=features)
    return features


def text_features(backbone, captions=CAPTIONS):
    """Of captions, compared with the library's own."""
    ids = backbone.pad(backbone.tokenize(captions)[0])
    features = backbone.encode_text(ids)
    backbone.require_exact("text", inputs=ids, features=features)
    return features
