"""Files of heads: what comes back, and what is refused in which words."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clipret.errors import HeadError
from clipret.heads import LinearHead, load_head, save_head
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
    kept = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    notes = {name: value for name, value in (metadata_of(path) | (metadata or {})).items() if value is not None}
    write_tensors(path, kept, metadata=notes)


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
        {"metadata": {"kind": "mlp"}},
        "{path} is not a head that this clipret reads (kind mlp, format 1); expected kind linear or adapter, format 1.",
    ),
    "another format": (
        {"metadata": {"format": "9"}},
        "{path} is not a head that this clipret reads (kind adapter, format 9); expected kind linear or adapter, "
        "format 1.",
    ),
    "ratio of words": (
        {"metadata": {"ratio": "half"}},
        "head {path} is an adapter with ratio 'half' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "ratio that is no number": (
        {"metadata": {"ratio": "nan"}},
        "head {path} is an adapter with ratio 'nan' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "no ratio": (
        {"metadata": {"ratio": None}},
        "head {path} is an adapter with ratio 'none' in its metadata; expected a number from 0 to 1. Train it again.",
    ),
    "relu in words": (
        {"metadata": {"relu": "yes"}},
        "head {path} is an adapter with relu 'yes' in its metadata; expected true or false. Train it again.",
    ),
    "a third side": (
        {"metadata": {"sides": "audio"}},
        "head {path} is an adapter with sides 'audio' in its metadata; expected both, image or text. Train it again.",
    ),
    "missing tensors": (
        {"text_up": None, "image_weight": None},
        "head {path} is not whole: it lacks image_weight, text_up; train it again.",
    ),
    "extra tensors": (
        {"audio_weight": torch.zeros(2)},
        "head {path} holds audio_weight, which this adapter head has no place for; train it again.",
    ),
    "tensors of a side that has no adapter": (
        {"metadata": {"sides": "image"}},
        "head {path} holds text_down, text_up, which this adapter head has no place for; train it again.",
    ),
    "an up that does not fit its down": (
        {"image_up": torch.zeros(4, 12)},
        "head {path} is of other widths than the cache: it has image_bias 12, image_down 12x5, image_up 4x12, "
        "image_weight 24x12, text_down 12x5, text_up 5x12, text_weight 16x12, the cache needs image_bias 12, "
        "image_down 12x5, image_up 5x12, image_weight 24x12, text_down 12x5, text_up 5x12, text_weight 16x12; use a "
        "cache of model made.",
    ),
    "a down of no matrix": (
        {"image_down": torch.zeros(12), "image_up": torch.zeros(1, 12)},
        "head {path} is of other widths than the cache: it has image_bias 12, image_down 12, image_up 1x12, "
        "image_weight 24x12, text_down 12x5, text_up 5x12, text_weight 16x12, the cache needs image_bias 12, "
        "image_down 12x1, image_up 1x12, image_weight 24x12, text_down 12x5, text_up 5x12, text_weight 16x12; use a "
        "cache of model made.",
    ),
    "values that are not finite": (
        {"text_down": torch.full((12, 5), torch.inf)},
        "head {path} holds values in text_down that are not finite; train it again.",
    ),
    "other weights": (
        {"metadata": {"weights_sha256": "e" * 64}},
        "head {path} was trained on features of model made with weights eeeeeeeeeeee, the cache's are abababababab; "
        "they do not fit.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_spoiled_head_is_refused_in_its_exact_line(projections, path, changes, message):
    save_head(adapter(projections), path=path, metadata=METADATA)
    rewrite(path, **changes)
    with pytest.raises(HeadError) as caught:
        load(path, projections)
    assert str(caught.value) == message.format(path=path)


def test_a_bias_too_many_is_a_matter_of_widths(projections, path):
    save_head(LinearHead(projections), path=path, metadata=METADATA)
    with pytest.raises(HeadError, match=r"of other widths than the cache: it has image_bias 12, image_weight"):
        load(path, contents().projections)
