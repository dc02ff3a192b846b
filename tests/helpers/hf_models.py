"""Small models of transformers with random weights, in folders as that library writes them, tokenizers included."""

import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from clipret.backbones.clip_package import import_clip

SIDE = 32
CLIP_WORDS = 1000
_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
_VISION = _SIZES | {"image_size": SIDE, "patch_size": 8}
_WORDS = ["a", "man", "dog", "rides", "holds", "red", "small", "train", "on", "the", "street", "kitchen", "with", "two"]


def write_model(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """The folder, with a model of one of KINDS, its tokenizer and its preprocessing."""
    torch.manual_seed(seed)
    randomised(KINDS[kind]()).save_pretrained(folder)
    TOKENIZERS[kind]().save_pretrained(folder)
    PROCESSORS.get(kind, _clip_processor)().save_pretrained(folder)
    return folder


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Replace what is initialised to constants or almost so, so that no error can hide behind it."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.normal_(std=0.6 * tensor[0].numel() ** -0.5 if "embedding" not in name else 0.3)
            elif name.endswith("bias"):
                tensor.normal_(std=0.1)
            elif name.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def edit_json(path: Path, **changes) -> None:
    """Change fields of a JSON file; a name with __ is of a field in a field."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = content
        for part in outer:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(content))


def openai_clip(*, words: int = CLIP_WORDS) -> torch.nn.Module:
    """OpenAI's architecture."""
    text = _clip_text(words) | {"hidden_act": "quick_gelu", "intermediate_size": 256}
    vision = _VISION | {"hidden_act": "quick_gelu", "intermediate_size": 256}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=48))


def _clip() -> torch.nn.Module:
    """Not OpenAI's: GELU, and heads of 32."""
    text = _clip_text(CLIP_WORDS) | {"hidden_act": "gelu", "num_attention_heads": 2}
    vision = _VISION | {"hidden_act": "gelu"}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=48))


def _clip_text(words: int) -> dict:
    ids = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    return _SIZES | ids | {"vocab_size": words, "max_position_embeddings": 77}


def _siglip() -> torch.nn.Module:
    text = _SIZES | {"vocab_size": 100, "max_position_embeddings": 64, "projection_size": 64, "pad_token_id": 0}
    text |= {"bos_token_id": 2, "eos_token_id": 1}
    config = transformers.SiglipConfig(text_config=text, vision_config=_VISION)
    return transformers.SiglipModel(config)


def _alt_clip() -> torch.nn.Module:
    text = _SIZES | {"vocab_size": 120, "max_position_embeddings": 80, "project_dim": 40, "pad_token_id": 1}
    config = transformers.AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=48)
    return transformers.AltCLIPModel(config)


def _chinese_clip() -> torch.nn.Module:
    text = _SIZES | {"vocab_size": 120, "max_position_embeddings": 128}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=48)
    return transformers.ChineseCLIPModel(config)


def _meta_clip_2() -> torch.nn.Module:
    text = _SIZES | {"vocab_size": 120, "max_position_embeddings": 77, "eos_token_id": 2, "bos_token_id": 0}
    config = transformers.MetaClip2Config(text_config=text, vision_config=_VISION, projection_dim=48)
    return transformers.MetaClip2Model(config)


def _dual_encoder() -> torch.nn.Module:
    vision = transformers.ViTConfig(**_VISION)
    text = transformers.BertConfig(**_SIZES, vocab_size=120, max_position_embeddings=40)
    join = transformers.VisionTextDualEncoderConfig.from_vision_text_configs
    return transformers.VisionTextDualEncoderModel(join(vision, text, projection_dim=48))


def _dual_roberta() -> torch.nn.Module:
    """CLIP's images and RoBERTa's text."""
    vision = transformers.CLIPVisionConfig(**_VISION)
    text = transformers.RobertaConfig(**_SIZES, vocab_size=120, max_position_embeddings=42, pad_token_id=1)
    join = transformers.VisionTextDualEncoderConfig.from_vision_text_configs
    return transformers.VisionTextDualEncoderModel(join(vision, text, projection_dim=48))


def _dual_dino() -> torch.nn.Module:
    """DINOv2's images, which are smaller than those that its positions are of, and BERT's text."""
    vision = transformers.Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, mlp_ratio=2)
    vision.image_size, vision.patch_size = 2 * SIDE, 8
    text = transformers.BertConfig(**_SIZES, vocab_size=120, max_position_embeddings=40)
    join = transformers.VisionTextDualEncoderConfig.from_vision_text_configs
    return transformers.VisionTextDualEncoderModel(join(vision, text, projection_dim=48))


def clip_tokenizer(*, words: int = CLIP_WORDS) -> transformers.PreTrainedTokenizerBase:
    """Of so many of the tokens of OpenAI's vocabulary, which has 49,408: bytes, the first merges, start and end."""
    whole = import_clip().clip._tokenizer
    tokens = [*list(whole.encoder)[: words - 2], *list(whole.encoder)[-2:]]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    merges = list(whole.bpe_ranks)[: words - 2 - 512]
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _bert_tokenizer() -> transformers.PreTrainedTokenizerBase:
    letters = list(string.ascii_lowercase + string.digits + ".,'-!")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS[1:], *letters, *(f"##{part}" for part in letters)]
    return transformers.BertTokenizer(vocab={token: place for place, token in enumerate(tokens)}, model_max_length=512)


def _roberta_tokenizer() -> transformers.PreTrainedTokenizerBase:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS), "▁", *string.ascii_lowercase]
    vocabulary = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    return transformers.XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)], model_max_length=512)


def siglip_tokenizer(*, lower: bool = True) -> transformers.PreTrainedTokenizerBase:
    """Of pieces, as SigLIP's, ending with </s>; with `lower` off, letters keep their case, as SigLIP 2's."""
    letters = string.ascii_lowercase + ("" if lower else string.ascii_uppercase)
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS), "▁", *letters]
    vocabulary = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    inner = Tokenizer(models.Unigram(vocab=vocabulary, unk_id=2))
    inner.normalizer = normalizers.Lowercase() if lower else normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names)


def _clip_processor() -> transformers.BaseImageProcessor:
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def _siglip_processor() -> transformers.BaseImageProcessor:
    return transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})


def _vit_processor() -> transformers.BaseImageProcessor:
    return transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def _dino_processor() -> transformers.BaseImageProcessor:
    crop = {"height": SIDE, "width": SIDE}
    return transformers.BitImageProcessor(size={"shortest_edge": SIDE + 4}, crop_size=crop)


KINDS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "openai": openai_clip,
    "clip": _clip,
    "siglip": _siglip,
    "altclip": _alt_clip,
    "chinese": _chinese_clip,
    "metaclip2": _meta_clip_2,
    "dual": _dual_encoder,
    "dual-roberta": _dual_roberta,
    "dual-dino": _dual_dino,
}
TOKENIZERS: Mapping[str, Callable] = {
    "openai": clip_tokenizer,
    "clip": clip_tokenizer,
    "siglip": siglip_tokenizer,
    "altclip": _roberta_tokenizer,
    "chinese": _bert_tokenizer,
    "metaclip2": _roberta_tokenizer,
    "dual": _bert_tokenizer,
    "dual-roberta": _roberta_tokenizer,
    "dual-dino": _bert_tokenizer,
}
PROCESSORS: Mapping[str, Callable] = {
    "siglip": _siglip_processor,
    "dual": _vit_processor,
    "dual-dino": _dino_processor,
}
