"""The last block as a head, against a naive loop in float64 and against the encoder itself."""

import math

import numpy as np
import pytest
import torch

from clipret.errors import HeadError
from clipret.heads.base import FEATURES, TOKENS, Start, clip_tensors, learning_names
from clipret.heads.block import BlockHead
from clipret.heads.files import load_head, load_head_alone, save_head
from clipret.heads.interpolation import wise_ft
from clipret.machine.token_rows import TokenRows

WIDTHS = {"image": 12, "text": 8}
HEADS_OF = {"image": 3, "text": 2}
EMBEDDING = 5
FORMS = ("transformer", "pool")


def projections(form: str = "transformer", *, seed: int = 0) -> dict[str, np.ndarray]:
    """A cache's, with the last blocks: images of this form, captions of a transformer."""
    from clipret.machine.last_blocks import shapes_of

    generator = np.random.default_rng(seed)

    def drawn(*shape):
        return generator.normal(scale=0.5, size=shape).astype(np.float32)

    values = {"logit_scale": np.float32(4.6)}
    for side, width in WIDTHS.items():
        values[f"{side}/weight"] = drawn(width, EMBEDDING)
        of_side = form if side == "image" else "transformer"
        for part, shape in shapes_of(of_side, width=width).items():
            values[f"{side}/block/{part}"] = drawn(*shape) + (1 if part.startswith("norm") else 0)
        values[f"{side}/block/heads"] = np.float32(HEADS_OF[side])
    return values


def tokens(side: str, lengths: list[int], *, seed: int = 1) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), WIDTHS[side], generator=generator, dtype=torch.float64)
    return TokenRows(values, torch.tensor(lengths))


def started(form: str = "transformer", *, tune: str = "all", rank: int = 2, sides=("image", "text")) -> BlockHead:
    clip = clip_tensors(projections(form), names=BlockHead.names)
    settings = {"tune": tune, "rank": rank}
    generator = torch.Generator().manual_seed(3)
    return BlockHead(BlockHead.start(clip, Start("clip", sides, settings, generator)))


def naive(head: dict[str, torch.Tensor], side: str, rows: TokenRows) -> torch.Tensor:
    """One row, head of attention and token after the other, as the encoder's paper has it."""
    part = {name.removeprefix(f"{side}_block_"): values for name, values in head.items() if name.startswith(side)}
    for matrix in ("inner_weight", "outer_weight", "up_weight", "down_weight"):
        if f"{matrix}_in" in part:
            part[matrix] = part[matrix] + part[f"{matrix}_out"] @ part[f"{matrix}_in"]
    width, count, start, embedded = rows.width, int(part["heads"]), 0, []
    for length in rows.lengths.tolist():
        x = rows.values[start : start + length]
        start += length
        at = 0 if side == "image" else length - 1
        normed = norm(x, part, "norm_1") if "norm_1_weight" in part else x
        query, key, value = (normed @ part["inner_weight"].T + part["inner_bias"]).split(width, dim=1)
        outputs = []
        for cut in torch.arange(width).view(count, -1):
            scores = torch.stack([query[at, cut] @ key[place, cut] for place in range(length)])
            shares = torch.exp(scores / math.sqrt(width // count))
            shares = shares / shares.sum()
            outputs.append(sum(share * value[place, cut] for place, share in enumerate(shares)))
        y = torch.cat(outputs)
        if "outer_weight" in part:
            y = x[at] + part["outer_weight"] @ y + part["outer_bias"]
            inner = part["up_weight"] @ norm(y, part, "norm_2") + part["up_bias"]
            y = y + part["down_weight"] @ (inner * torch.sigmoid(1.702 * inner)) + part["down_bias"]
            y = norm(y, part, "norm_3")
        projected = y @ part[f"{side}_weight"]
        embedded.append(projected / projected.pow(2).sum().sqrt())
    return torch.stack(embedded)


def norm(x: torch.Tensor, part: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * part[f"{name}_weight"] + part[f"{name}_bias"]


def embed(head: BlockHead, side: str, rows: TokenRows) -> torch.Tensor:
    return head.embed_images(rows) if side == "image" else head.embed_texts(rows)


def lengths_of(side: str) -> list[int]:
    return [4, 4, 4] if side == "image" else [3, 1, 6, 3, 2]


@pytest.mark.parametrize("tune", ["all", "lora"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["image", "text"])
def test_embeddings_and_gradients_are_those_of_a_naive_loop_in_float64(form, side, tune):
    head = started(form, tune=tune).double()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in head.named_parameters():
        if name.endswith("_out"):
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    rows = tokens(side, lengths_of(side))
    names = [name for name, _ in head.named_parameters() if name.startswith(side) and not name.endswith("heads")]
    plain = {name: tensor.detach().clone().requires_grad_(name in names) for name, tensor in head.named_parameters()}
    expected, result = naive(plain, side, rows), embed(head.requires_grad_(True), side, rows)
    assert result.shape == (len(rows), EMBEDDING)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    pull = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (expected * pull).sum().backward()
    (result * pull).sum().backward()
    for name in names:
        gradient, reference = head.get_parameter(name).grad, plain[name].grad
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-10, msg=lambda text, name=name: name + text)
        # The bias of keys shifts all scores of a query: nothing depends on it.
        assert reference.abs().max() > 1e-6, name


def test_a_row_among_longer_ones_is_the_row_alone():
    head = started()
    rows = tokens("text", [5, 2, 7]).float()
    together = head.embed_texts(rows)
    for place in range(3):
        alone = head.embed_texts(rows[torch.tensor([place])])
        torch.testing.assert_close(together[place], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tune", "learning"),
    [
        ("norms", {"norm_1_weight", "norm_1_bias", "norm_2_weight", "norm_2_bias", "norm_3_weight", "norm_3_bias"}),
        ("lora", {f"{m}_weight_{end}" for m in ("inner", "outer", "up", "down") for end in ("in", "out")}),
    ],
)
def test_what_learns_is_what_is_asked_for_and_always_the_projection(tune, learning):
    head = started(tune=tune)
    settings = {"tune": tune, "rank": 2}
    names = learning_names(BlockHead, sides=("text",), tensors=head.tensors, settings=settings)
    assert set(names) == {"text_weight", *(f"text_block_{part}" for part in learning)}
    every = learning_names(BlockHead, sides=("text",), tensors=head.tensors, settings={"tune": "all", "rank": 2})
    assert len(every) == 1 + 14
    assert "text_block_heads" not in every


def test_lora_starts_as_the_block_itself():
    rows = tokens("image", [4, 4]).float()
    assert torch.equal(started(tune="lora").embed_images(rows), started().embed_images(rows))


def test_a_side_that_does_not_learn_reads_features_through_its_projection():
    head = started(sides=("image",))
    assert head.inputs == {"image": TOKENS, "text": FEATURES}
    assert not any(name.startswith("text_block") for name in head.tensors)
    features = torch.randn(3, WIDTHS["text"])
    expected = torch.nn.functional.normalize(features @ head.text_weight, dim=-1)
    torch.testing.assert_close(head.embed_texts(features), expected)
    assert head.replaced_block("text") is None
    assert head.replaced_block("image")[0] == "transformer"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_saved_head_is_read_as_it_was(tmp_path, form, tune):
    head = started(form, tune=tune, sides=("image",))
    metadata = {"weights_sha256": "ab", "model": "made"}
    save_head(head, path=tmp_path / "head.safetensors", metadata=metadata)
    for again in (
        load_head(tmp_path / "head.safetensors", projections=projections(form), weights_sha256="ab"),
        load_head_alone(tmp_path / "head.safetensors"),
    ):
        assert again.tensors.keys() == head.tensors.keys()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in head.tensors.items())
        assert again.inputs == head.inputs


def test_a_file_with_a_part_missing_is_refused(tmp_path):
    head = started()
    head.image_block_up_bias = None
    path = tmp_path / "head.safetensors"
    save_head(head, path=path, metadata={"weights_sha256": "ab", "model": "made"})
    with pytest.raises(HeadError) as caught:
        load_head(path, projections=projections(), weights_sha256="ab")
    assert str(caught.value) == f"head {path} is incomplete: tensors image_block_up_bias are missing; train it again."


def test_heads_of_attention_that_do_not_divide_the_width_are_refused(tmp_path):
    head = started()
    head.image_block_heads = torch.nn.Parameter(torch.tensor(5.0))
    path = tmp_path / "head.safetensors"
    save_head(head, path=path, metadata={"weights_sha256": "ab", "model": "made"})
    with pytest.raises(HeadError) as caught:
        load_head(path, projections=projections(), weights_sha256="ab")
    assert str(caught.value) == (
        "a head of kind block has 5 heads of attention in its file, for tokens of width 12; expected a whole number "
        "that divides it. Train it again."
    )


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_wise_ft_goes_from_the_encoders_own_block_to_the_trained_one(tune):
    trained = started(tune=tune)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if not name.endswith("heads"):
                parameter.add_(0.1)
    rows = tokens("image", [4, 4]).float()
    untrained = wise_ft(trained, projections=projections(), alpha=0.0)
    torch.testing.assert_close(untrained.embed_images(rows), started().embed_images(rows))
    assert torch.equal(
        wise_ft(trained, projections=projections(), alpha=1.0).embed_images(rows), trained.embed_images(rows)
    )
    assert int(untrained.image_block_heads) == HEADS_OF["image"]


@pytest.mark.parametrize("form", FORMS)
def test_what_replaces_the_encoders_block_has_lora_in_it(form):
    head = started(form, tune="lora")
    with torch.no_grad():
        head.image_block_inner_weight_out.normal_()
    kind, parts = head.replaced_block("image")
    assert kind == form
    expected = head.image_block_inner_weight + head.image_block_inner_weight_out @ head.image_block_inner_weight_in
    assert torch.equal(parts["inner_weight"], expected)
    plain = {f"image_block_{part}": values for part, values in parts.items()}
    again = BlockHead(
        head.tensors | plain | {"image_block_inner_weight_out": torch.zeros_like(head.image_block_inner_weight_out)}
    )
    rows = tokens("image", [4, 4]).float()
    torch.testing.assert_close(again.embed_images(rows), head.embed_images(rows))
