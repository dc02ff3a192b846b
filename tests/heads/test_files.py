"""Files of heads: what comes back, and what is refused in which words."""

import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clipret.errors import HeadError
from clipret.heads import HEADS
from clipret.heads.files import load_head, load_scalars, save_head, scalar_metadata
from clipret.heads.linear import LinearHead
from clipret.machine.tensors import write_tensors
from tests.conftest import contents
from tests.helpers.adapters import adapter

WEIGHTS = "ab" * 32
METADATA = {"model": "made", "weights_sha256": WEIGHTS, "fingerprint": "cd" * 32}


@pytest.fixture
def projections():
    return contents(bias=True).projections


@pytest.fixture
def path(tmp_path):
    return tmp_path / "head.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: text for name, text in file.metadata().items() if name != "sha256"}


def rewrite(path, *, metadata=None, **tensors):
    """Write the file with other metadata and tensors; None takes one out."""
    tensors = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    notes = {name: value for name, value in (metadata_of(path) | (metadata or {})).items() if value is not None}
    write_tensors(path, tensors, metadata=notes)


def load(path, projections):
    return load_head(path, projections=projections, weights_sha256=WEIGHTS)


@pytest.mark.parametrize(
    ("sides", "word", "ratio", "relu"),
    [(("image", "text"), "both", 0.3, True), (("image",), "image", 1 / 3, False), (("text",), "text", 1.0, True)],
)
def test_a_saved_adapter_comes_back_bit_for_bit_with_its_settings(projections, path, sides, word, ratio, relu):
    head = adapter(projections, sides=sides, ratio=ratio, relu=relu)
    save_head(head, path=path, metadata=METADATA)
    loaded = load(path, projections)
    assert (loaded.kind, loaded.ratio, loaded.relu) == ("adapter", ratio, relu)
    assert list(loaded.tensors) == list(head.tensors)
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in head.tensors.items())
    assert metadata_of(path) == {
        **METADATA,
        "format": "1",
        "kind": "adapter",
        "widths": "image 24, text 16, embedding 12",
        "ratio": repr(ratio),
        "relu": "true" if relu else "false",
        "sides": word,
    }


def test_a_head_that_is_kept_the_other_way_round_is_saved_as_it_reads(projections, path):
    tensors = LinearHead(projections).tensors
    turned = LinearHead({name: tensor.t().contiguous().t() for name, tensor in tensors.items() if tensor.dim() == 2})
    save_head(turned, path=path, metadata=METADATA)
    assert torch.equal(load_file(path)["image_weight"], tensors["image_weight"])


def test_a_linear_head_needs_no_widths_beside_it(projections, path):
    save_head(LinearHead(projections), path=path, metadata=METADATA)
    rewrite(path, metadata={"widths": None})
    assert isinstance(load(path, projections), LinearHead)


REFUSALS = {
    "another kind": (
        {"metadata": {"kind": "no-such-kind"}},
        "{path} is not a head that this clipret reads (kind no-such-kind, format 1); expected kind {kinds}, format 1.",
    ),
    "another format": (
        {"metadata": {"format": "9"}},
        "{path} is not a head that this clipret reads (kind adapter, format 9); expected kind {kinds}, format 1.",
    ),
    "ratio of words": (
        {"metadata": {"ratio": "half"}},
        "head {path} has ratio 'half' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "ratio that is no number": (
        {"metadata": {"ratio": "nan"}},
        "head {path} has ratio 'nan' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "no ratio": (
        {"metadata": {"ratio": None}},
        "head {path} has ratio 'none' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "relu in words": (
        {"metadata": {"relu": "yes"}},
        "head {path} has relu 'yes' in its metadata; expected true or false. Train it again.",
    ),
    "a third side": (
        {"metadata": {"sides": "audio"}},
        "head {path} has sides 'audio' in its metadata; expected both, image or text. Train it again.",
    ),
    "missing tensors": (
        {"text_up": None, "image_weight": None},
        "head {path} is incomplete: tensors image_weight, text_up are missing; train it again.",
    ),
    "extra tensors": (
        {"audio_weight": torch.zeros(2)},
        "head {path} has tensors audio_weight, which a head of kind adapter does not have; train it again.",
    ),
    "tensors of a side that has no adapter": (
        {"metadata": {"sides": "image"}},
        "head {path} has tensors text_down, text_up, which a head of kind adapter does not have; train it again.",
    ),
    "an up that does not fit its down": (
        {"image_up": torch.zeros(4, 12)},
        "head {path} does not fit the widths of the cache: it has image_bias 12, image_down 12x5, image_up 4x12, "
        "image_weight 24x12, text_bias 12, text_down 12x5, text_up 5x12, text_weight 16x12, the cache needs "
        "image_bias 12, image_down 12x5, image_up 5x12, image_weight 24x12, text_bias 12, text_down 12x5, "
        "text_up 5x12, text_weight 16x12; use a cache of model made.",
    ),
    "a down of no matrix": (
        {"image_down": torch.zeros(12), "image_up": torch.zeros(1, 12)},
        "head {path} does not fit the widths of the cache: it has image_bias 12, image_down 12, image_up 1x12, "
        "image_weight 24x12, text_bias 12, text_down 12x5, text_up 5x12, text_weight 16x12, the cache needs "
        "image_bias 12, image_down 12x1, image_up 1x12, image_weight 24x12, text_bias 12, text_down 12x5, "
        "text_up 5x12, text_weight 16x12; use a cache of model made.",
    ),
    "values that are not finite": (
        {"text_down": torch.full((12, 5), torch.inf)},
        "tensor text_down of head {path} has values that are not finite; train it again.",
    ),
    "other weights": (
        {"metadata": {"weights_sha256": "e" * 64}},
        "head {path} was trained on features of model made with weights eeeeeeeeeeee; the weights of the cache are "
        "abababababab. Use a cache of that model.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_spoiled_head_is_refused_in_its_exact_line(projections, path, changes, message):
    save_head(adapter(projections), path=path, metadata=METADATA)
    rewrite(path, **changes)
    with pytest.raises(HeadError) as caught:
        load(path, projections)
    assert str(caught.value) == message.format(path=path, kinds=" or ".join(HEADS))


def test_a_bias_too_few_is_a_matter_of_widths(projections, path):
    save_head(LinearHead(contents().projections), path=path, metadata=METADATA)
    with pytest.raises(
        HeadError, match=r"does not fit the widths of the cache: it has image_weight 24x12, text_weight"
    ):
        load(path, projections)


def test_a_head_of_another_embedding_width_and_with_added_biases_comes_back(projections, path):
    wide = {"image_weight": torch.randn(24, 9), "text_weight": torch.randn(16, 9)}
    wide |= {"image_bias": torch.randn(9), "text_bias": torch.randn(9)}
    save_head(LinearHead(wide), path=path, metadata=METADATA)
    for name, tensor in load(path, projections).tensors.items():
        assert torch.equal(tensor, wide[name])


def test_sides_of_different_embedding_widths_are_refused(projections, path):
    sides = {"image_weight": torch.randn(24, 9), "text_weight": torch.randn(16, 8), "image_bias": torch.randn(9)}
    save_head(LinearHead(sides), path=path, metadata=METADATA)
    with pytest.raises(HeadError, match=r"text_weight 16x8, the cache needs .*text_weight 16x9"):
        load(path, projections)


def test_a_saved_head_comes_back_bit_for_bit(projections, tmp_path):
    head = LinearHead(projections)
    with torch.no_grad():
        head.image_bias += 1
    save_head(head, path=tmp_path / "head.safetensors", metadata=METADATA)
    loaded = load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)
    for name, parameter in head.named_parameters():
        assert torch.equal(parameter, dict(loaded.named_parameters())[name])
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_a_head_for_other_widths_is_refused_with_both_shapes(projections, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(contents(dims=(20, 16, 12), bias=True).projections), path=path, metadata=METADATA)
    with pytest.raises(
        HeadError, match=r"has image_bias 12, image_weight 20x12.*needs image_bias 12, image_weight 24x"
    ):
        load_head(path, projections=projections, weights_sha256=WEIGHTS)


def test_a_head_for_another_models_features_is_refused(projections, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(projections), path=path, metadata=METADATA)
    with pytest.raises(
        HeadError, match="trained on features of model made with weights abababababab; the weights of the cache"
    ):
        load_head(path, projections=projections, weights_sha256="0" * 64)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no head at"),
        (lambda path: path.write_text("hello"), "is not a readable safetensors file"),
        (lambda path: path.write_bytes(b""), "is not a readable safetensors file"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), r"is not a head that this clipret reads \(kind none"),
    ],
)
def test_a_file_that_is_no_head_is_one_clear_line(write, message, projections, tmp_path):
    write(tmp_path / "head.safetensors")
    with pytest.raises(HeadError, match=message) as caught:
        load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)
    assert "\n" not in str(caught.value)


def test_a_head_that_is_not_finite_is_refused(projections, tmp_path):
    head = LinearHead(projections)
    with torch.no_grad():
        head.text_weight[0, 0] = torch.nan
    save_head(head, path=tmp_path / "head.safetensors", metadata=METADATA)
    with pytest.raises(HeadError, match=r"tensor text_weight of head .* has values that are not finite"):
        load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are of another kind there")
def test_a_head_can_be_read_by_whoever_can_read_other_new_files(projections, tmp_path):
    (tmp_path / "other").touch()
    save_head(LinearHead(projections), path=tmp_path / "head.safetensors", metadata=METADATA)
    assert (tmp_path / "head.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_scalars_of_a_loss_come_back_to_the_last_bit(projections, path):
    scalars = {"log_scale": float(torch.tensor(2.6592)), "bias": -10.000001}
    save_head(LinearHead(projections), path=path, metadata=METADATA | scalar_metadata(scalars))
    assert load_scalars(path) == scalars
    assert load(path, projections).tensors.keys() == LinearHead(projections).tensors.keys()


def test_a_head_without_scalars_is_the_file_that_it_was(projections, path, tmp_path):
    save_head(LinearHead(projections), path=path, metadata=METADATA)
    save_head(LinearHead(projections), path=tmp_path / "other", metadata=METADATA | scalar_metadata({}))
    assert load_scalars(path) == {}
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("text", ["nan", "inf", "ten", ""])
def test_a_scalar_that_is_no_number_is_one_clear_line(projections, path, text):
    save_head(LinearHead(projections), path=path, metadata=METADATA | {"bias": text})
    with pytest.raises(HeadError) as error:
        load_scalars(path)
    expected = f"head {path} has bias '{text}' in its metadata; expected a finite number. Train it again."
    assert str(error.value) == expected
