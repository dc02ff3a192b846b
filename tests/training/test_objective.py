import math
import threading

import pytest
import torch

from clipret import TrainConfig
from clipret.machine.devices import torch_threads
from clipret.machine.products import Products
from clipret.training import blocks
from clipret.training.objective import Objective, bound_scalars, learned_scalars

RUNS, TEXTS, IMAGES, WIDTH = 2, 9, 7, 5


def embeddings():
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(RUNS, WIDTH, count, generator=generator) for count in (TEXTS, IMAGES))
    return [torch.nn.functional.normalize(tensor, dim=1) for tensor in drawn]


def mask():
    owners = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 6])
    matches = (owners[:, None] == torch.arange(IMAGES))[None].repeat(RUNS, 1, 1)
    matches[1, 3, 4] = True
    return matches


def pull(config, **changes):
    configs = [TrainConfig("x.h5", **config, seed=seed) for seed in range(RUNS)]
    stacked = Objective(configs, products=Products("cpu"), device="cpu")
    scalars = learned_scalars(configs[0], logit_scale=math.log(20))
    learned = {name: torch.full((RUNS,), value) for name, value in scalars.items()}
    texts, images = embeddings()
    return stacked.pull(
        texts, images, matching=lambda rows: mask()[:, rows], margins=stacked.margins([0.5] * RUNS), learned=learned
    )


KINDS = [
    {"margin": 0.1},
    {"margin": 0.1, "reduction": "mean"},
    {"margin": "0.3:-0.1"},
    {"loss": "infonce"},
    {"loss": "infonce", "temperature": 0.1},
    {"loss": "triplet"},
    {"loss": "triplet", "violation": "sum"},
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "temperature": 0.1},
]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: " ".join(map(str, config.values())))
@pytest.mark.parametrize(("rows", "piece"), [(1, 1), (2, 2), (4, 4), (8, 3)])
def test_a_loss_in_blocks_is_the_loss(config, rows, piece, monkeypatch):
    whole = pull(config)
    monkeypatch.setattr(blocks, "_MOST_BYTES", rows * 4 * RUNS * IMAGES)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", piece * 4 * RUNS * IMAGES)
    parts = pull(config)
    for name in ("value", "texts", "images", "along_texts", "along_images"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
    assert parts.learned.keys() == whole.learned.keys()
    for name in whole.learned:
        torch.testing.assert_close(parts.learned[name], whole.learned[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["margin", "infonce"])
def test_blocks_do_not_depend_on_the_number_of_threads(loss, monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_BYTES", 4 * RUNS * IMAGES)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 4 * RUNS * IMAGES)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(pull({"loss": loss}))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name in ("value", "texts", "images", "along_texts", "along_images"):
            assert torch.equal(getattr(found[0], name), getattr(other, name))


def test_an_interruption_while_blocks_are_joined_ends_the_threads(monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_BYTES", 4 * RUNS * IMAGES)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 4 * RUNS * IMAGES)

    def interrupt(parts):
        next(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(blocks, "_joined", interrupt)
    before = threading.active_count()
    with torch_threads(2), pytest.raises(KeyboardInterrupt) as kept:
        pull({"loss": "infonce"})
    assert threading.active_count() == before
    assert kept.tb is not None


@pytest.mark.parametrize("kept", [0, 3, 100])
@pytest.mark.parametrize("config", [{"loss": "infonce"}, {"loss": "triplet"}])
def test_similarities_that_are_kept_are_those_computed_again(config, kept, monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_BYTES", 4 * RUNS * IMAGES)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 4 * RUNS * IMAGES)
    monkeypatch.setattr(blocks, "_KEPT_BYTES", kept * 4 * RUNS * IMAGES)
    ours = pull(config)
    monkeypatch.setattr(blocks, "_KEPT_BYTES", 0)
    again = pull(config)
    assert torch.equal(ours.images, again.images)
    assert torch.equal(ours.texts, again.texts)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: " ".join(map(str, config.values())))
def test_the_inner_products_with_the_embeddings_are_those(config):
    texts, images = embeddings()
    pulled = pull(config)
    torch.testing.assert_close(pulled.along_texts, (pulled.texts * texts).sum(1, keepdim=True), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pulled.along_images, (pulled.images * images).sum(1, keepdim=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_the_scales_gradient_is_that_of_its_logarithm(loss):
    """A small step of the logarithm changes the value by gradient times step."""
    configs = [TrainConfig("x.h5", loss=loss)]
    stacked = Objective(configs, products=Products("cpu"), device="cpu")
    texts, images = (tensor[:1].double() for tensor in embeddings())

    def value(log_scale):
        learned = {"log_scale": torch.tensor([log_scale], dtype=torch.float64)}
        if loss == "sigmoid":
            learned["bias"] = torch.tensor([-1.0], dtype=torch.float64)
        return stacked.pull(texts, images, matching=lambda rows: mask()[:1, rows], margins=None, learned=learned)

    step, at = 1e-5, math.log(8)
    slope = (value(at + step).value - value(at - step).value) / (2 * step)
    torch.testing.assert_close(value(at).learned["log_scale"], slope, rtol=1e-6, atol=1e-8)


def test_scales_start_where_clip_and_siglip_have_them_and_stay_below_a_hundred():
    assert learned_scalars(TrainConfig("x.h5"), logit_scale=4.0) == {}
    assert learned_scalars(TrainConfig("x.h5", loss="infonce"), logit_scale=4.0) == {"log_scale": 4.0}
    assert learned_scalars(TrainConfig("x.h5", loss="infonce"), logit_scale=9.0) == {"log_scale": math.log(100)}
    assert learned_scalars(TrainConfig("x.h5", loss="infonce", temperature=0.1), logit_scale=4.0) == {}
    assert learned_scalars(TrainConfig("x.h5", loss="sigmoid"), logit_scale=4.0) == {
        "log_scale": math.log(10),
        "bias": -10,
    }
    scalars = {"log_scale": torch.tensor([5.0, 1.0])}
    bound_scalars(scalars)
    torch.testing.assert_close(scalars["log_scale"], torch.tensor([math.log(100), 1.0]))


def test_margins_move_along_their_schedule():
    configs = [TrainConfig("x.h5", margin=margin) for margin in (0.2, "0.5:0.1", "0:1")]
    stacked = Objective(configs, products=Products("cpu"), device="cpu")
    torch.testing.assert_close(stacked.margins([0.0, 0.0, 0.25]), torch.tensor([0.2, 0.5, 0.25]))
    torch.testing.assert_close(stacked.margins([1.0, 0.5, 1.0]), torch.tensor([0.2, 0.3, 1.0]))


def test_an_automatic_margin_is_the_quantile_of_the_batchs_negatives():
    """With it, as many negatives count as lie above the quantile."""
    texts, images = embeddings()
    similarities, positives = texts.transpose(1, 2) @ images, mask()
    pulled = pull({"margin": "auto:0.75"})
    for run in range(RUNS):
        negatives = similarities[run][~positives[run]].sort().values
        margin = negatives[int(0.75 * (len(negatives) - 1))]
        costs = (similarities[run][~positives[run]] - margin).clamp_min(0) / 2
        expected = ((1 - similarities[run][positives[run]]) / 2).mean() + costs.mean()
        torch.testing.assert_close(pulled.value[run], expected)
