import itertools
from dataclasses import make_dataclass

import numpy as np
import pytest
import torch

from clipret import FeatureCache, TrainConfig
from clipret.config.settings import settings_of
from clipret.heads import load_head_kind
from clipret.heads.base import learning_names
from clipret.losses import load_loss
from clipret.machine.products import Products
from clipret.protocols.protocol import split_protocol
from clipret.training.batches import plan_epoch
from clipret.training.features import Features
from clipret.training.graphs import GraphedSteps, can_be_captured
from clipret.training.pairs import Pairs
from clipret.training.stack import Stack, first_state, head_tensors, shape_of
from clipret.training.starting import build_head, initial_tensors, learning_sides
from tests.conftest import contents, write_cache
from tests.training.test_neighbours import plain_term


def learning(config, tensors):
    return learning_names(load_head_kind(config.head), sides=learning_sides(config), tensors=tensors)


class Setting:
    """A small cache and its batches."""

    def __init__(self, path):
        self.cache = FeatureCache(path)
        self.pairs = Pairs.of(self.cache, split_protocol(self.cache, split="train").folds[0])
        self.features = Features(self.cache, self.pairs, placement="device", device="cpu", memory_limit=None)

    def config(self, **changes):
        return TrainConfig(self.cache.path, **({"batch_size": 12, "lr": 1e-2} | changes))

    def stack(self, *configs):
        states = [first_state(config, initial_tensors(config, self.cache), logit_scale=4.6) for config in configs]
        return Stack(list(configs), states, products=Products("cpu"), device="cpu")

    def run(self, stack, *, steps, graphed=None):
        """Losses (steps, S) of training by so many steps at a constant rate."""
        losses, rates = [], [config.lr for config in stack.configs]
        batches = list(
            itertools.chain.from_iterable(plan_epoch(self.pairs, stack.configs, epoch=epoch) for epoch in range(9))
        )[:steps]
        for number, features in enumerate(self.features.batches([batch.places for batch in batches])):
            batch, margins = batches[number], stack.margins([number / steps] * len(stack))
            if graphed:
                mask = batch.matching(slice(None), device="cpu")
                losses.append(graphed(features, mask=mask, rates=rates, margins=margins))
            else:
                losses.append(
                    stack.step(
                        features,
                        matching=lambda rows, batch=batch: batch.matching(rows, device="cpu"),
                        rates=rates,
                        margins=margins,
                    ).clone()
                )
        return torch.stack(losses)

    def by_autograd(self, config, *, steps):
        """The same by torch's modules, autograd and AdamW: losses and the final tensors."""
        tensors = initial_tensors(config, self.cache)
        watched = {name: tensors[name].clone().requires_grad_() for name in learning(config, tensors)}
        scalars = {}
        if config.loss in ("infonce", "sigmoid"):
            scalars["log_scale"] = torch.tensor(np.log(10) if config.loss == "sigmoid" else 4.6).float()
        if config.loss == "sigmoid":
            scalars["bias"] = torch.tensor(-10.0)
        scalars = {name: value.requires_grad_() for name, value in scalars.items()}
        settings = {"betas": (config.beta1, config.beta2), "eps": config.eps, "lr": config.lr}
        optimiser = torch.optim.AdamW(
            [
                {"params": list(watched.values()), "weight_decay": config.weight_decay},
                *([{"params": list(scalars.values()), "weight_decay": 0.0}] if scalars else []),
            ],
            **settings,
        )
        losses, batches = [], []
        for epoch in range(9):
            batches += plan_epoch(self.pairs, [config], epoch=epoch)
        for batch, features in zip(
            batches[:steps], self.features.batches([b.places for b in batches[:steps]]), strict=True
        ):
            embeddings = {
                side: self._embed(config, {**tensors, **watched}, side, features[side][0]) for side in features
            }
            similarities = embeddings["text"] @ embeddings["image"].T
            positives = batch.matching(slice(None), device="cpu")[0]
            loss = autograd_loss(config, similarities, positives, scalars)
            for side in learning_sides(config) if config.keep_neighbours else ():
                loss = loss + config.keep_neighbours * plain_term(embeddings[side], features[side][0])
            optimiser.zero_grad()
            loss.backward()
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_([*watched.values(), *scalars.values()], config.clip_norm)
            optimiser.step()
            with torch.no_grad():
                if "log_scale" in scalars:
                    scalars["log_scale"].clamp_(max=float(np.log(100)))
            losses.append(loss.detach())
        return torch.stack(losses), {**tensors, **{name: values.detach() for name, values in watched.items()}}

    @staticmethod
    def _embed(config, tensors, side, features):
        weight, bias = tensors[f"{side}_weight"], tensors.get(f"{side}_bias")
        projected = features @ weight + (0 if bias is None else bias)
        embedding = torch.nn.functional.normalize(projected, dim=1)
        if f"{side}_down" not in tensors:
            return embedding
        raised = (embedding @ tensors[f"{side}_down"]).relu() @ tensors[f"{side}_up"]
        if config.adapter_relu:
            raised = raised * (raised >= 0)
        return torch.nn.functional.normalize(
            config.adapter_ratio * raised + (1 - config.adapter_ratio) * embedding, dim=1
        )


def autograd_loss(config, similarities, positives, scalars):
    """The package's loss value, connected to autograd by its gradient, so that all but the loss is compared."""
    settings = {"margin": {"margin": config.margin, "reduction": config.reduction}}
    settings["triplet"] = {"margin": config.margin, "violation": config.violation}
    settings["infonce"] = {"scale": scalars["log_scale"].exp()} if scalars else {}
    settings["sigmoid"] = {**settings["infonce"], "bias": scalars.get("bias")}
    parameters = settings[config.loss]
    with torch.no_grad():
        ours = load_loss(config.loss).function(similarities, positives, **parameters)
    loss = (similarities * ours.gradient).sum()
    for name, gradient in ours.learned.items():
        loss = loss + parameters[name] * gradient
    return ours.value + loss - loss.detach()


@pytest.fixture
def setting(tmp_path):
    return Setting(write_cache(tmp_path / "made.h5", contents(bias=True)))


KINDS = [
    {},
    {"reduction": "mean", "margin": 0.3},
    {"loss": "infonce"},
    {"loss": "sigmoid"},
    {"loss": "triplet", "margin": 0.2},
    {"loss": "triplet", "violation": "sum"},
    {"head": "adapter"},
    {"head": "adapter", "train": "text", "adapter_relu": False},
    {"train": "image"},
    {"clip_norm": 0.05},
    {"clip_norm": 0.05, "loss": "infonce"},
    {"keep_neighbours": 0.5},
    {"keep_neighbours": 0.5, "head": "adapter", "train": "text"},
]


def named(changes):
    return " ".join(map(str, changes.values())) or "default"


@pytest.mark.parametrize("changes", KINDS, ids=named)
def test_steps_are_those_of_autograd_and_torchs_adamw(setting, changes):
    config = setting.config(**changes)
    stack = setting.stack(config)
    losses = setting.run(stack, steps=7)[:, 0]
    expected, tensors = setting.by_autograd(config, steps=7)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    ours = head_tensors(stack.state(0))
    assert ours.keys() == tensors.keys()
    for name, values in tensors.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train": "text", "loss": "infonce"},
        {"keep_neighbours": 0.5, "init": "random"},
    ],
    ids=named,
)
def test_biases_that_the_encoder_does_not_have_learn_as_by_autograd(tmp_path, changes):
    setting = Setting(write_cache(tmp_path / "plain.h5", contents()))
    config = setting.config(bias=True, **changes)
    stack = setting.stack(config)
    losses = setting.run(stack, steps=7)[:, 0]
    expected, tensors = setting.by_autograd(config, steps=7)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    ours = head_tensors(stack.state(0))
    biases = {f"{side}_bias" for side in learning_sides(config)}
    assert {name for name in ours if name.endswith("_bias")} == biases
    for name, values in tensors.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-3, atol=2e-5)
    assert all(ours[name].abs().min() > 0 for name in biases)


@pytest.mark.parametrize("changes", [*KINDS, {"ema": 0.8}, {"margin": "0.4:0.1"}, {"margin": "auto"}], ids=named)
def test_each_run_of_a_stack_is_what_it_is_alone(setting, changes):
    configs = [
        setting.config(**changes, seed=seed, weight_decay=decay) for seed, decay in ((0, 0.1), (1, 0.0), (2, 0.1))
    ]
    stack = setting.stack(*configs)
    losses = setting.run(stack, steps=6)
    for place, config in enumerate(configs):
        alone = setting.stack(config)
        torch.testing.assert_close(losses[:, place], setting.run(alone, steps=6)[:, 0], rtol=1e-5, atol=1e-6)
        for name, values in alone.state(0).items():
            torch.testing.assert_close(stack.state(place)[name], values, rtol=1e-4, atol=1e-6)


def test_runs_that_are_taken_out_leave_the_others_as_they_were(setting):
    configs = [setting.config(seed=seed) for seed in range(3)]
    stack = setting.stack(*configs)
    setting.run(stack, steps=3)
    kept = stack.keep([0, 2])
    assert len(kept) == 2
    assert kept.configs == [configs[0], configs[2]]
    for place, old in ((0, 0), (1, 2)):
        for name, values in kept.state(place).items():
            assert torch.equal(values, stack.state(old)[name])


def test_the_average_follows_the_head_by_its_decay(setting):
    config = setting.config(ema=0.75)
    stack = setting.stack(config)
    average = stack.state(0)["weight/image_weight"].clone()
    for _ in range(3):
        setting.run(stack, steps=1)
        average = 0.75 * average + 0.25 * stack.state(0)["weight/image_weight"]
        torch.testing.assert_close(stack.state(0)["average/weight/image_weight"], average)
    head = build_head(config, head_tensors(stack.state(0)))
    torch.testing.assert_close(head.image_weight, average.T)


@pytest.mark.parametrize("changes", [*KINDS[:4], KINDS[-1], {"margin": "0.4:0.1"}, {"margin": "auto"}], ids=named)
def test_steps_from_fixed_places_are_the_same_steps(setting, changes):
    """Stands for a CUDA graph: replays a step by calling it again."""
    configs = [setting.config(**changes, seed=seed) for seed in range(2)]
    plain, placed = setting.stack(*configs), setting.stack(*configs)
    graphed = GraphedSteps(placed, capture=lambda step, stack: step)
    expected = setting.run(plain, steps=6)
    torch.testing.assert_close(setting.run(placed, steps=6, graphed=graphed), expected, rtol=1e-6, atol=1e-7)
    for name, values in plain.arrays.items():
        torch.testing.assert_close(placed.arrays[name], values, rtol=1e-5, atol=1e-7)


def test_steps_whose_shapes_or_operations_change_are_not_captured():
    can = [{}, {"loss": "triplet"}, {"hard_negatives": 1}]
    cannot = [{"captions_per_step": "all"}, {"batch_size": 5000}, {"loss": "triplet", "violation": "sum"}]
    assert [can_be_captured(TrainConfig("x.h5", **changes)) for changes in (*can, *cannot)] == [True] * 3 + [False] * 3


def test_runs_are_of_one_shape_when_only_their_numbers_differ():
    base = shape_of(TrainConfig("x.h5"))
    same = [
        {"lr": 1.0},
        {"margin": 0.4},
        {"margin": "0.5:0.1"},
        {"seed": 3},
        {"epochs": 5},
        {"patience": 2},
        {"init": "random"},
    ]
    other = [
        {"loss": "infonce"},
        {"head": "adapter"},
        {"batch_size": 5},
        {"margin": "auto"},
        {"ema": 0.9},
        {"keep_neighbours": 0.1},
        {"bias": True},
        {"steps": 10},
    ]
    assert all(shape_of(TrainConfig("x.h5", **changes)) == base for changes in same)
    assert all(shape_of(TrainConfig("x.h5", **changes)) != base for changes in other)
    everything = [shape_of(TrainConfig("x.h5", captions_per_step="all", seed=seed)) for seed in range(2)]
    assert everything[0] != everything[1]


def test_a_setting_that_stacking_has_not_heard_of_has_to_be_equal():
    """A new setting that is not listed makes sweeps slower, but never gives a run another run's setting."""
    kind = make_dataclass("Extended", [("dropout", float, 0.0)], bases=(TrainConfig,), frozen=True)
    assert shape_of(kind("x.h5", dropout=0.1)) == shape_of(kind("x.h5", dropout=0.1, lr=1.0))
    assert shape_of(kind("x.h5", dropout=0.1)) != shape_of(kind("x.h5", dropout=0.2))


def test_what_runs_trained_together_must_have_in_common():
    rules = settings_of(TrainConfig)
    assert {name for name, rule in rules.items() if not rule.may_differ} == {
        *("cache", "drop_cross_split_duplicates", "head", "train"),
        *("bias", "adapter_reduction", "adapter_ratio", "adapter_relu", "hidden", "blocks", "tune", "rank"),
        *("loss", "reduction", "violation", "hard_negatives", "steps", "batch_size", "captions_per_step", "precision"),
        *("features", "memory_limit", "device"),
    }


def test_runs_whose_optimisers_step_alike_are_updated_together_and_others_are_not(setting):
    """Two runs with equal settings and one with another epsilon: two fused calls, on weights only."""
    stack = setting.stack(*(setting.config(seed=seed, eps=eps) for seed, eps in ((0, 1e-6), (1, 1e-6), (2, 1e-3))))
    assert [coefficients.eps for _, coefficients, *_ in stack._groups] == [1e-6, 1e-3]
