"""Tokenizers of transformers' models: ends, padding, lengths."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from clipret.backbones import hf, load_backbone, load_tokenizer
from tests.helpers.backbone_models import error_of
from tests.helpers.hf_models import CLIP_WORDS, edit_json, siglip_tokenizer
from tests.helpers.hf_reference import CAPTIONS, LONG, library_of, message_of


@pytest.mark.parametrize(
    ("kind", "wrong", "end"),
    [("clip", CLIP_WORDS - 2, CLIP_WORDS - 1), ("openai", 7, CLIP_WORDS - 1), ("metaclip2", 1, 2)],
)
def test_an_end_of_text_that_the_tokenizer_never_writes_is_refused(hf_changed, kind, wrong, end):
    folder = hf_changed(kind, text_config__eos_token_id=wrong)
    length = len(library_of(folder)[2]("A dog")["input_ids"])
    assert message_of(folder) == (
        f"eos_token_id of text_config in {folder}/config.json is {wrong}: transformers would read texts at token 1 of "
        f"{length}; their last is {end}, which is expected there."
    )


def test_siglip_is_padded_to_its_whole_length_without_a_mask_and_has_no_projection_of_images(hf_folders):
    backbone = load_backbone(f"hf:{hf_folders('siglip')}")
    rows, counts = backbone.tokenize(["a dog", "a man " * 50])
    assert [len(row) for row in rows] == [64, 64]
    assert list(counts) == [3, 102]
    assert list(rows[0][:4]) == [3, 5, 1, 0]
    head = backbone.projections()
    np.testing.assert_array_equal(head["image/weight"], np.eye(64))
    assert sorted(head) == ["image/weight", "logit_scale", "text/bias", "text/weight"]
    assert np.abs(head["text/bias"]).max() > 0
    # Another length is another feature, so that the length has to be right.
    cut = backbone.encode_text(torch.from_numpy(rows[0][None, :8].astype(np.int64)))
    whole = backbone.encode_text(torch.from_numpy(rows[0][None].astype(np.int64)))
    assert error_of(cut, whole) > 0.01


def test_siglip_padded_at_the_left_is_refused(hf_changed):
    folder = hf_changed("siglip")
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    assert message_of(folder) == (
        f"the tokenizer of hf:{folder} pads at the left, and the model reads the padding; SigLIP was trained with "
        f'padding at the right: expected "padding_side": "right" in tokenizer_config.json.'
    )


def test_it_is_said_whether_a_tokenizer_keeps_the_case(hf_changed):
    folder = hf_changed("siglip")
    assert (
        load_backbone(f"hf:{folder}").details["tokenizer"].endswith(" 64 tokens, lower-cased, padded to that, no mask")
    )
    siglip_tokenizer(lower=False).save_pretrained(folder)
    assert load_backbone(f"hf:{folder}").details["tokenizer"].endswith(" 64 tokens, case kept, padded to that, no mask")


def test_siglips_pieces_are_read_by_sentencepiece_or_the_package_is_named(hf_changed, monkeypatch, tmp_path):
    folder = hf_changed("siglip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "spiece.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert message_of(folder) == (
        f"{folder}/spiece.model is read by sentencepiece; install with: pip install sentencepiece"
    )


def test_siglips_pieces_give_the_ids_of_its_own_tokenizer(hf_changed, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = hf_changed("siglip")
    (tmp_path / "corpus.txt").write_text("a man rides a dog on the small red train, the quick fox jumps\n" * 20)
    names = {"input": str(tmp_path / "corpus.txt"), "model_prefix": str(folder / "spiece"), "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**names, vocab_size=30, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "tokenizer.json").unlink()
    content = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "pad_token": "</s>", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    backbone = load_backbone(f"hf:{folder}")
    assert backbone.details["tokenizer"].startswith("SiglipTokenizer ")
    assert backbone.details["tokenizer"].endswith(", 64 tokens, lower-cased, padded to that, no mask")
    texts = ["A red DOG!", "a red dog", "", "a man " * 60]
    rows, counts = pickle.loads(pickle.dumps(backbone)).tokenize(texts)
    own = library_of(folder)[2](texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    np.testing.assert_array_equal(np.stack(rows), own)
    # Punctuation is taken out as well.
    np.testing.assert_array_equal(rows[0], rows[1])
    assert counts[0] == counts[1] < 12
    assert counts[2] == 1
    assert counts[3] > 64


def test_masked_text_is_padded_at_the_right_whatever_the_tokenizer_says(hf_changed, hf_folders):
    folder = hf_changed("chinese")
    edit_json(folder / "tokenizer_config.json", padding_side="left", truncation_side="left")
    one, other = (load_backbone(f"hf:{where}") for where in (folder, hf_folders("chinese")))
    texts = [*CAPTIONS, *LONG]
    assert torch.equal(one.pad(one.tokenize(texts)[0]), other.pad(other.tokenize(texts)[0]))


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("clip", 77),
        ("siglip", 64),
        ("altclip", 78),
        ("chinese", 52),
        ("metaclip2", 77),
        ("dual", 40),
        ("dual-roberta", 40),
    ],
)
def test_a_tokenizer_is_loaded_without_weights_with_the_positions_that_the_model_has(
    hf_folders, kind, length, monkeypatch
):
    """A table of RoBERTa's has two positions more than it has use for."""
    monkeypatch.setattr(hf, "load_files", None)
    tokenizer = load_tokenizer(f"hf:{hf_folders(kind)}")
    assert tokenizer.context_length == length
    assert [tokenizer.is_too_long(text) for text in ("a dog", LONG[0])] == [False, True]


def test_a_tokenizer_of_another_model_is_refused(hf_changed, hf_folders):
    folder = hf_changed("dual")
    shutil.copy(hf_folders("clip") / "tokenizer.json", folder / "tokenizer.json")
    shutil.copy(hf_folders("clip") / "tokenizer_config.json", folder / "tokenizer_config.json")
    assert message_of(folder) == (
        f"the tokenizer of hf:{folder} has 1,000 tokens, its model 120; expected the tokenizer that the model was "
        f"trained with."
    )
