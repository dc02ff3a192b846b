"""The loss and head that the manual shows do what it says of them, and its functions take the configs it names."""

import inspect
import re
import runpy
import typing

import numpy as np
import pytest
import torch

import clipret
from clipret.heads.linear import LinearHead
from tests.helpers.pages import DOCS, text_of

LOSSES = runpy.run_path(str(DOCS / "examples/my_losses.py"))
HEADS = runpy.run_path(str(DOCS / "examples/my_heads.py"))


@pytest.mark.parametrize("name", ["soft_margin", "soft_targets"])
def test_a_step_down_the_gradient_moves_matches_up_and_others_down(name):
    similarities = torch.rand((6, 4), generator=torch.manual_seed(0), dtype=torch.float64, requires_grad=True)
    matches = torch.zeros((6, 4), dtype=torch.bool)
    matches[torch.arange(6), torch.arange(6) % 4] = True
    loss = LOSSES[name](similarities, matches)
    loss.backward()
    assert loss.shape == ()
    assert similarities.grad[matches].mean() < 0
    assert similarities.grad[~matches].mean() > 0


def test_the_untrained_head_is_clip():
    generator = np.random.default_rng(0)
    widths = {"image/weight": (24, 12), "text/weight": (16, 12)}
    projections = {name: generator.normal(size=shape).astype(np.float32) for name, shape in widths.items()}
    tensors = {name: torch.from_numpy(array) for name, array in projections.items()}
    head, clip = HEADS["MLP"](tensors), LinearHead(projections)
    images, texts = torch.randn(5, 24), torch.randn(5, 16)
    torch.testing.assert_close(head.embed_images(images), clip.embed_images(images))
    torch.testing.assert_close(head.embed_texts(texts), clip.embed_texts(texts))


def test_every_function_takes_the_config_that_the_page_names():
    named = re.findall(r"`(\w+)\((\w+Config)\)`", text_of(DOCS / "python.md"))
    assert len(named) == 18
    for function, config in named:
        function = getattr(clipret, function)
        first = next(iter(inspect.signature(function).parameters))
        assert typing.get_type_hints(function)[first] is getattr(clipret, config)
