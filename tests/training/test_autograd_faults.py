"""Losses and heads of the user's own that do what nobody expects: one line, or the right result."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipret import EvalConfig, SweepConfig, TrainConfig, evaluate, sweep, train
from clipret.errors import ClipretError, TrainingError
from clipret.sweeps import resume_sweep
from tests.conftest import StopAfter
from tests.helpers import own


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    own.forget(monkeypatch, tmp_path / "state")


@pytest.fixture
def settings(cache_path, tmp_path):
    values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 2, "batch_size": 8, "lr": 3e-3}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


def loss_of(body):
    return "import torch\n\n\ndef soft_margin(similarities, matches):\n" + "".join(f"    {line}\n" for line in body)


def head_of(*, start=(), texts=("return features @ self.text",), more=()):
    lines = ["import threading", "import torch", "from torch import nn", "", "", "class MLP(nn.Module):"]
    lines += ["    def __init__(self, projections):", "        super().__init__()"]
    lines += [f"        self.{s} = nn.Parameter(projections['{s}/weight'])" for s in ("image", "text")]
    lines += [f"        {line}" for line in start]
    lines += ["    def embed_images(self, features):", "        return features @ self.image"]
    lines += ["    def embed_texts(self, features):", *(f"        {line}" for line in texts)]
    return "\n".join([*lines, *(f"    {line}" for line in more)]) + "\n"


CODE = "my_losses.py:soft_margin"
LOSSES = {
    "exits": (["raise SystemExit(3)"], f"{CODE} failed, line 5: SystemExit: 3; it is called with "),
    "an error without a text": (
        ["class Mute(BaseException):", "    def __str__(self): return self.nothing", "raise Mute"],
        f"{CODE} failed, line 7: Mute; it is called with (similarities, matches).",
    ),
    "whole numbers": (["return torch.tensor(3)"], f"{CODE} returned a tensor () int64; expected a scalar tensor, "),
    "a gradient of its own": (
        ["return torch.ones((), requires_grad=True) * 2"],
        f"the gradient of {CODE} reaches nothing that learns; expected torch operations all along.",
    ),
    "an exit in the gradient": (
        ["similarities.register_hook(lambda gradient: exit(4))", "return similarities.sum()"],
        f"the gradient of {CODE} failed, line 5: SystemExit: 4.",
    ),
}
DENSE = "expected a dense tensor on the CPU, of a shape that follows from projections."
MADE = "my_heads.py:MLP makes a head whose extra has"
HEADS = {
    "exits": (head_of(start=["raise SystemExit(3)"]), "my_heads.py:MLP failed, line 11: SystemExit: 3; it is called"),
    "exits later": (
        head_of(texts=["raise SystemExit(3)"]),
        "my_heads.py:MLP.embed_texts failed, line 14: SystemExit: 3; expected 3 rows",
    ),
    "no shape yet": (head_of(start=["self.extra = nn.LazyLinear(3)"]), f"{MADE[:-4]}.weight has no shape yet; {DENSE}"),
    "no memory": (
        head_of(start=["self.register_buffer('extra', torch.zeros(3, device='meta'))"]),
        f"{MADE} the device meta; {DENSE}",
    ),
    "sparse": (
        head_of(start=["self.register_buffer('extra', torch.eye(3).to_sparse())"]),
        f"{MADE} the layout torch.sparse_coo; {DENSE}",
    ),
    "shared places": (
        head_of(start=["self.register_buffer('extra', torch.zeros(1).expand(3))"]),
        f"{MADE} places that share their memory; {DENSE}",
    ),
    "a property": (
        head_of(more=["@property", "def embed_images(self): raise ValueError('broken')"]),
        "my_heads.py:MLP failed, line 16: ValueError: broken.",
    ),
    "no mode": (
        head_of(more=["def train(self, mode=True): raise ValueError('broken')"]),
        "my_heads.py:MLP.eval failed, line 15: ValueError: broken.",
    ),
    "nothing to keep": (
        "from torch import nn\nclass MLP(nn.Module):\n    def __init__(self, projections): super().__init__()\n"
        "    def embed_images(self, features): ...\n    embed_texts = embed_images\n",
        "my_heads.py:MLP makes a head without parameters and buffers; nothing learns.",
    ),
    "no width": (
        head_of(texts=["return (features @ self.text)[:, :0]"]),
        "my_heads.py:MLP.embed_texts returned a tensor (3, 0) float32; expected 3 rows of floating-point numbers",
    ),
    "a parameter put anew": (
        head_of(texts=["self.text = nn.Parameter(self.text.detach().clone())", "return features @ self.text"]),
        "my_heads.py:MLP has changed its text while it was trained; all parameters and buffers have to be made when "
        "the head is, and parameters have to stay the same.",
    ),
    "a buffer that grows": (
        head_of(
            start=["self.register_buffer('seen', torch.zeros(1))"],
            texts=["self.seen = torch.cat([self.seen, self.seen])", "return features @ self.text"],
        ),
        "my_heads.py:MLP has changed its seen from (1,) float32 to (2,) float32 while it was trained; expected a "
        "tensor of the same shape and type.",
    ),
}


@pytest.mark.parametrize(("body", "expected"), LOSSES.values(), ids=LOSSES)
def test_what_a_loss_should_not_do_is_one_line_and_leaves_no_run(settings, tmp_path, body, expected):
    word = own.write(tmp_path, loss=loss_of(body))["loss"]
    with pytest.raises(ClipretError) as caught:
        train(settings(loss=word))
    assert str(caught.value).startswith(expected)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("text", "expected"), HEADS.values(), ids=HEADS)
def test_what_a_head_should_not_do_is_one_line_and_leaves_no_run(settings, tmp_path, text, expected):
    word = own.write(tmp_path, head=text)["head"]
    with pytest.raises(ClipretError) as caught:
        train(settings(head=word))
    assert str(caught.value).startswith(expected)
    assert not (tmp_path / "runs").exists()


def test_embeddings_without_a_gradient_are_said(settings, tmp_path):
    text = head_of(texts=["return (features @ self.text).detach()"]).replace(
        "return features @ self.image", "return (features @ self.image).detach()"
    )
    with pytest.raises(TrainingError, match=r"^my_heads.py:MLP returned embeddings without a gradient; expected torch"):
        train(settings(head=own.write(tmp_path, head=text)["head"]))


@pytest.mark.parametrize(
    "start",
    [
        "self.lock = threading.Lock()",
        "self.register_buffer('first', self.text.detach()[:2])",
        "self.doubled = self.text * 2",
        "self.register_buffer('mask', torch.full((3, 3), float('-inf')))",
        "self.register_buffer('mask', torch.ones(2, dtype=torch.bool))",
    ],
)
def test_heads_that_cannot_be_copied_or_have_a_mask_are_trained_and_measured(settings, tmp_path, start):
    run = Path(train(settings(head=own.write(tmp_path, head=head_of(start=[start]))["head"]))["run"])
    results = evaluate(EvalConfig(head=run, wise_ft=(1,), resamples=0))["results"]
    assert results["trained"] == results["wise-ft 1"]


def test_a_buffer_that_is_put_anew_is_kept_as_one_that_is_written_into(settings, tmp_path):
    """`self.mean = ...` and `self.mean.copy_(...)` are the same to the file of the head and to a resumed training."""
    heads = []
    for name, line in (("anew", "self.mean = new"), ("into", "self.mean.copy_(new)")):
        texts = ["if self.training:", "    new = 0.9 * self.mean + features.mean()", f"    {line}"]
        start = ["self.register_buffer('mean', torch.zeros(()))"]
        head = head_of(start=start, texts=[*texts, "return features @ self.text + self.mean"])
        run = train(settings(name=name, keep="last", head=own.write(tmp_path, head=head)["head"]))["run"]
        heads.append(load_file(f"{run}/head.safetensors"))
    assert heads[0]["module.mean"] != 0
    for name, tensor in heads[0].items():
        assert torch.equal(tensor, heads[1][name])


def test_code_that_writes_into_what_it_is_called_with_changes_nothing_else(settings, tmp_path):
    plain = train(settings(name="plain"))
    body = ["value = similarities[~matches].mean()", "matches.fill_(False)", "return value"]
    text = head_of(texts=["features = features.mul_(2)", "return features @ self.text"])
    train(settings(name="hostile", **own.write(tmp_path, loss=loss_of(body), head=text)))
    again = train(settings(name="again"))
    assert (again["val_rsum"], again["kept_epoch"]) == (plain["val_rsum"], plain["kept_epoch"])
    heads = [load_file(f"{result['run']}/head.safetensors") for result in (plain, again)]
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())


FAILS_LATER = ["if len(similarities) > 3:", "    raise ValueError('too many')", "return similarities.mean()"]


def test_a_loss_that_fails_in_the_middle_says_what_it_says_and_the_run_keeps_its_head(settings, tmp_path):
    word = own.write(tmp_path, loss=loss_of(FAILS_LATER))["loss"]
    with pytest.raises(TrainingError) as caught:
        train(settings(loss=word, name="r"))
    assert str(caught.value) == (
        f"{CODE} failed, line 6: ValueError: too many; it is called with (similarities, matches); the run keeps the "
        f"head it had before."
    )
    assert (tmp_path / "runs" / "r" / "head.safetensors").exists()


def test_a_head_that_fails_when_it_is_measured_is_not_taken_for_an_overflow(settings, tmp_path):
    text = head_of(
        start=["self.register_buffer('steps', torch.zeros(()))"],
        texts=[
            "if self.training: self.steps += 1",
            "if not self.training and self.steps > 0: raise ValueError('measured')",
            "return features @ self.text",
        ],
    )
    with pytest.raises(TrainingError, match=r"^my_heads.py:MLP.embed_texts failed, line \d+: ValueError: measured; "):
        train(settings(head=own.write(tmp_path, head=text)["head"]))


def test_the_other_runs_of_a_sweep_go_on_where_one_fails(cache_path, tmp_path):
    word = own.write(tmp_path, loss=loss_of(FAILS_LATER))["loss"]
    axes = {"loss": [word, "margin"], "epochs": [1]}
    result = sweep(SweepConfig(cache_path, runs_dir=tmp_path / "runs", name="s", axes=axes, seeds=(0,)))
    assert (result["runs"], result["failed"]) == (2, 1)


def test_a_sweep_of_files_by_relative_paths_goes_on_from_another_folder(cache_path, tmp_path, monkeypatch):
    own.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    axes = {"loss": ["my_losses.py:soft_margin"], "epochs": [2]}
    with pytest.raises(KeyboardInterrupt):
        sweep(SweepConfig(cache_path, runs_dir=tmp_path / "runs", name="s", axes=axes), on_progress=StopAfter(2))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume_sweep(tmp_path / "runs" / "s")["failed"] == 0


def test_a_home_that_cannot_be_written_is_remarked(settings, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (remark,) = train(settings(loss=own.write(tmp_path)["loss"]))["remarks"]
    assert remark.startswith(
        f"that my_losses.py is yours could not be noted, {tmp_path}/file/clipret/own-code.txt cannot be written: "
    )
