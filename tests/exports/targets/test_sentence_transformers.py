"""Folders of sentence-transformers: adapters of either side in stock modules."""

import json

import numpy as np
import pytest
from PIL import Image

from clipret.errors import ExportError
from clipret.exports.targets import sentence_transformers as target
from clipret.heads.base import Head
from tests.helpers.export_sources import (
    adapter_head,
    linear_head,
    sample_of,
    source_of,
    verification,
    verified,
    written,
)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("clip:transformer", "adapter", {}),
        pytest.param("clip:transformer", "adapter", {"relu": False}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", "adapter", {"sides": ("text",)}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", "adapter", {"sides": ("image",), "ratio": 1.0}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", "linear", {}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", "linear", {"width": 40}, marks=pytest.mark.ci),
        ("clip:transformer", "linear", {"biases": ("image", "text")}),
        pytest.param("hf:clip", "linear", {"biases": ("text",), "sides": ("text",)}, marks=pytest.mark.ci),
        pytest.param("hf:siglip", "linear", {"sides": ("text",)}, marks=pytest.mark.ci),
        pytest.param("hf:clip", "adapter", {}, marks=pytest.mark.ci),
        pytest.param("hf:siglip", "adapter", {}, marks=pytest.mark.ci),
    ],
    ids=str,
)
def test_the_library_gives_clipret_s_embeddings(encoder, tmp_path, name, kind, settings):
    backbone = encoder(name)
    make = {"adapter": adapter_head, "linear": linear_head}[kind]
    (result,) = verified("sentence-transformers", source_of(backbone, make(backbone, **settings)), tmp_path)
    assert result["difference"] < 1e-6
    assert (result["texts"], result["images"]) == (4, 3)


def test_embeddings_are_of_norm_1_and_each_side_has_its_adapter(encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    backbone = encoder("clip:transformer")
    source = source_of(backbone, adapter_head(backbone))
    folder = written("sentence-transformers", source, tmp_path / "exported")
    sample = sample_of(source, tmp_path / "scratch")
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)
    texts = model.encode(sample.captions)
    images = model.encode([Image.open(path) for path in sample.cropped])
    np.testing.assert_allclose(texts, sample.expected["text"], atol=1e-6)
    np.testing.assert_allclose(images, sample.expected["image"], atol=1e-6)
    # Queries and documents are not told apart.
    np.testing.assert_array_equal(model.encode_query(sample.captions), texts)
    # Without the adapters they are others.
    plain = sample_of(source_of(backbone, linear_head(backbone, sides=())), tmp_path / "plain").expected
    assert all(np.abs(plain[side] - sample.expected[side]).max() > 0.02 for side in plain)


def test_all_modules_are_stock(encoder, tmp_path):
    backbone = encoder("clip:transformer")
    folder = written("sentence-transformers", source_of(backbone, adapter_head(backbone)), tmp_path / "exported")
    modules = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    modules += json.loads((folder / "1_Router/router_config.json").read_text())["types"].values()
    assert len(modules) > 8
    assert all(name.startswith("sentence_transformers.sentence_transformer.modules.") for name in modules)


@pytest.mark.ci
def test_adapters_of_the_other_side_fail_the_verification(encoder, tmp_path):
    backbone = encoder("clip:transformer")
    source = source_of(backbone, adapter_head(backbone))
    folder = written("sentence-transformers", source, tmp_path / "exported")
    path = folder / "1_Router/router_config.json"
    content = json.loads(path.read_text())
    structure = content["structure"]
    structure["text"], structure["image"] = structure["image"], structure["text"]
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"^sentence-transformers gives other embeddings than clipret"):
        verification("sentence-transformers", source, folder, scratch=tmp_path / "scratch")


class Opaque(Head):
    """A head without layers."""

    kind = "opaque"


def test_what_has_no_place_is_refused(encoder):
    backbone = encoder("clip:resnet")
    assert "no class for OpenAI's ResNets" in target.refusal(source_of(backbone, adapter_head(backbone)))
    opaque = Opaque(linear_head(backbone).tensors)
    assert "does not begin with a projection" in target.refusal(source_of(backbone, opaque))
