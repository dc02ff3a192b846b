"""Training of the last block, on tokens in a cache."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipret import (
    EvalConfig,
    FailuresConfig,
    FeatureCache,
    SweepConfig,
    TrainConfig,
    evaluate,
    find_failures,
    resume,
    sweep,
    train,
)
from clipret.config import CompareConfig
from clipret.errors import CacheError, UsageError
from clipret.evaluation.comparison.stage import compare
from clipret.heads.base import clip_tensors
from clipret.heads.block import BlockHead
from clipret.heads.files import load_head
from clipret.retrieval import inputs
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.inputs import read_rows
from clipret.training import train_many
from clipret.training.data import Trained
from tests.conftest import StopAfter, contents, write_cache
from tests.helpers.tapped import write_tapped
from tests.training.test_resume import files

LOSS = "def pull(similarities, matches):\n    return -similarities[matches].mean() + similarities.mean()\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_tapped(tmp_path_factory.mktemp("tapped") / "made.h5")


@pytest.fixture
def settings(cache, tmp_path):
    values = {"cache": cache, "runs_dir": tmp_path / "runs", "epochs": 4, "batch_size": 8, "lr": 1e-3, "head": "block"}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


def head_of(run, cache) -> BlockHead:
    opened = FeatureCache(cache)
    weights = opened.inputs["weights_sha256"]
    path = Path(run) / "head.safetensors"
    return load_head(path, projections=baseline_projections(opened), weights_sha256=weights).requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({"tune": "all"}, {"inner_weight", "norm_1_bias", "up_bias", "norm_3_weight"}),
        ({"tune": "norms"}, {"norm_1_weight", "norm_2_bias", "norm_3_weight"}),
        ({"tune": "lora", "rank": 3}, {"inner_weight_in", "down_weight_out"}),
        ({"tune": "all", "train": "image"}, {"inner_weight"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_asked_for_learns_and_nothing_else(settings, cache, changes, moving):
    result = train(settings(keep="last", **changes))
    head, opened = head_of(result["run"], cache), FeatureCache(cache)
    start = clip_tensors(baseline_projections(opened), names=BlockHead.names)
    sides = ("image",) if changes.get("train") == "image" else ("image", "text")
    still = {"heads", "inner_weight", "up_weight"} | ({"norm_1_weight"} - moving)
    for side in sides:
        assert not torch.equal(head.tensors[f"{side}_weight"], start[f"{side}_weight"])
        for part in moving:
            before = start.get(f"{side}_block_{part}")
            assert before is None or not torch.equal(head.tensors[f"{side}_block_{part}"], before), part
        if changes["tune"] != "all":
            for part in still:
                assert torch.equal(head.tensors[f"{side}_block_{part}"], start[f"{side}_block_{part}"]), part
    if sides == ("image",):
        assert torch.equal(head.tensors["text_weight"], start["text_weight"])
        assert not any(name.startswith("text_block") for name in head.tensors)


def test_a_step_is_that_of_plain_autograd_and_adamw(settings, cache):
    """One step of infonce on all images, written out with torch alone."""
    config = settings(steps=1, batch_size=1000, loss="infonce", temperature=0.5, keep="last", weight_decay=0.01)
    trained = head_of(train(config)["run"], cache)
    opened = FeatureCache(cache)
    plain = BlockHead(clip_tensors(baseline_projections(opened), names=BlockHead.names))
    learning = {name: p for name, p in plain.named_parameters() if not name.endswith("heads")}
    adamw = torch.optim.AdamW(learning.values(), lr=config.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    pairs = Trained.of(opened, without_copies=False).pairs
    order, captions = pairs.draw(config.seed, 1)
    images, texts = pairs.image_rows[order.numpy()], pairs.text_rows[captions.numpy()]
    embedded = [
        embed(read_rows(opened, side, rows, kind="tokens").float())
        for side, rows, embed in (("text", texts, plain.embed_texts), ("image", images, plain.embed_images))
    ]
    scores = embedded[0] @ embedded[1].T / 0.5
    own = torch.arange(len(scores))
    cross = torch.nn.functional.cross_entropy
    ((cross(scores, own) + cross(scores.T, own)) / 2).backward()
    adamw.step()
    for name, parameter in learning.items():
        # The bias of keys has no gradient: it is rounding alone, which Adam makes a step of. Ours has none.
        width = 16
        ours, theirs = trained.tensors[name], parameter.detach()
        if name.endswith("inner_bias"):
            ours, theirs = (torch.cat([v[:width], v[2 * width :]]) for v in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_an_untrained_block_measures_what_the_encoder_does(settings, cache):
    run = train(settings(epochs=0))["run"]
    head, opened = head_of(run, cache), FeatureCache(cache)
    start = clip_tensors(baseline_projections(opened), names=BlockHead.names)
    assert all(torch.equal(head.tensors[name], tensor) for name, tensor in start.items())


KINDS = [
    {},
    {"tune": "lora", "loss": "infonce", "ema": 0.9, "warmup": 5},
    {"tune": "norms", "hard_negatives": 1, "train": "text"},
    {"captions_per_step": "all", "clip_norm": 0.1, "steps": 11},
]


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: " ".join(map(str, changes.values())) or "default")
def test_an_interrupted_training_resumes_bit_for_bit(settings, changes):
    whole = train(settings(name="whole", **changes))["run"]
    for reports in (1, 2, 1):
        config = settings(name=f"cut {reports}", **changes)
        with pytest.raises(KeyboardInterrupt):
            train(config, on_progress=StopAfter(reports))
        result = resume(config.runs_dir / config.name)
        assert files(result["run"]) == files(whole)
        shutil.rmtree(result["run"])


def test_neighbours_by_features_make_no_difference_to_a_block_and_a_remark_says_so(settings):
    plain, result = train(settings(name="plain")), train(settings(name="kept", keep_neighbours=0.5))
    assert files(result["run"])[:2] == files(plain["run"])[:2]
    assert any("--keep-neighbours is for --head linear" in remark for remark in result["remarks"])


def test_features_on_disk_in_memory_and_on_the_device_train_the_same(settings):
    runs = [train(settings(features=place, name=place))["run"] for place in ("device", "host", "disk")]
    first = files(runs[0])
    for run in runs[1:]:
        heads, rows, _ = files(run)
        assert (heads, rows) == first[:2]


def test_runs_of_a_sweep_are_the_runs_alone(settings, tmp_path):
    configs = [settings(name=f"{lr:g} {seed}", lr=lr, seed=seed) for lr in (1e-3, 1e-2) for seed in (0, 1)]
    configs.append(settings(name="linear", head="linear"))
    together = train_many([replace(config, runs_dir=tmp_path / "together") for config in configs])
    for config, result in zip(configs, together, strict=True):
        alone, of_sweep = files(train(config)["run"]), files(result["run"])
        assert of_sweep[:2] == alone[:2]


def test_a_sweep_varies_what_learns_of_the_block(settings, cache, tmp_path):
    axes = {"tune": "all,norms,lora", "epochs": 1, "batch_size": 8, "head": "block"}
    result = sweep(SweepConfig(cache, axes=axes, seeds=1, runs_dir=tmp_path / "runs", name="swept"))
    lines = (Path(result["sweep"]) / "sweep.csv").read_text().splitlines()
    assert [line.split(",")[lines[0].split(",").index("tune")] for line in lines[1:]] == ["all", "norms", "lora"]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("form", ["transformer", "pool"])
def test_training_helps_where_there_is_something_to_learn(tmp_path, dtype, form):
    cache = write_tapped(tmp_path / "made.h5", dtype=dtype, form=form, images=200)
    config = TrainConfig(cache=cache, runs_dir=tmp_path / "runs", head="block", epochs=15, lr=3e-3, loss="infonce")
    result = train(config)
    untrained = train(replace(config, epochs=0))
    assert result["val_rsum"] > untrained["val_rsum"] + 0.3


def test_eval_failures_compare_and_wise_ft_read_the_tokens(settings, cache):
    runs = [train(settings(name=name, lr=lr))["run"] for name, lr in (("a", 1e-3), ("b", 1e-2))]
    for run in runs:
        report = evaluate(EvalConfig(head=run, wise_ft=(0.0, 0.5, 1.0), resamples=0))
        results = report["results"]
        assert results["wise-ft 1"] == results["trained"]
        assert list(results) == ["zero-shot", "wise-ft 0", "wise-ft 0.5", "wise-ft 1", "trained"]
        assert len(find_failures(FailuresConfig(head=run))["directions"]["t2i"]["worst"])
    assert compare(CompareConfig(runs=tuple(runs), permutations=100))


def test_a_scoring_reads_the_tokens_of_its_bank(settings, cache):
    run = train(settings(tune="lora"))["run"]
    report = evaluate(EvalConfig(head=run, resamples=0, scoring="nnn"))
    assert report["scoring"]["results"]["trained"] != report["results"]["trained"]
    assert report["scoring"]["bank"]["images"] == len(FeatureCache(cache).rows("image", split="train"))


@pytest.mark.ci
def test_a_gallery_read_a_few_rows_at_a_time_has_the_same_ranks(settings, cache, monkeypatch):
    run = train(settings(tune="lora"))["run"]
    whole = evaluate(EvalConfig(head=run, resamples=0, scoring="dis"))
    # An image's tokens and more: four rows of captions, or one image.
    monkeypatch.setattr(inputs, "_BLOCK_BYTES", 4 * 16 * 5)
    reads, read = [], FeatureCache.read_tokens

    def counted(self, side, rows):
        reads.append(len(rows))
        return read(self, side, rows)

    monkeypatch.setattr(FeatureCache, "read_tokens", counted)
    assert evaluate(EvalConfig(head=run, resamples=0, scoring="dis")) == whole
    assert max(reads) == 1


def test_a_loss_of_the_users_own_trains_a_block(settings, tmp_path):
    (tmp_path / "losses.py").write_text(LOSS)
    word = f"{tmp_path / 'losses.py'}:pull"
    result = train(settings(loss=word, lr=1e-2, epochs=8))
    history = (tmp_path / "runs" / "0001-pull-block" / "history.csv").read_text().splitlines()
    losses = [float(line.split(",")[1]) for line in history[2:]]
    assert losses[-1] < losses[0]
    assert result["epochs"] == 8


REFUSED = {
    "precision": ({"precision": "bf16"}, "--precision is bf16; a head of kind block is trained in fp32."),
    "start": ({"init": "ridge"}, "--init ridge is for --head linear, mlp, gated; the head is block."),
    "tune": ({"tune": "some"}, "--tune is 'some'; expected one of: all, lora, norms."),
    "rank": ({"rank": 0}, "--rank is 0; expected 1 or more."),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit_are_refused(settings, changes, message):
    with pytest.raises(UsageError) as caught:
        train(settings(**changes))
    assert str(caught.value) == message


def test_a_cache_without_tokens_is_refused_before_a_run_is_made(cache_path, tmp_path):
    config = TrainConfig(cache=cache_path, runs_dir=tmp_path / "runs", head="block")
    with pytest.raises(CacheError) as caught:
        train(config)
    assert str(caught.value) == (
        f"{cache_path} has no image tokens, which a head of kind block reads; extract them to another --out with --tap "
        f"both."
    )
    assert not config.runs_dir.exists()


def test_a_head_of_another_cache_of_the_same_model_says_what_is_missing(settings, tmp_path):
    run = train(settings(epochs=1))["run"]
    cache_path = write_cache(tmp_path / "plain.h5", contents(dims=(16, 16, 12)))
    with pytest.raises(CacheError, match="has no image tokens"):
        evaluate(EvalConfig(head=run, cache=cache_path, resamples=0, allow_leak=True))


def test_the_run_says_what_it_was_trained_with(settings):
    run = train(settings(tune="lora", rank=2))["run"]
    config = json.loads((Path(run) / "config.json").read_text())["config"]
    assert (config["head"], config["tune"], config["rank"]) == ("block", "lora", 2)
    assert np.isfinite(json.loads((Path(run) / "result.json").read_text())["val_rsum"])
