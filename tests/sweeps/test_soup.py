"""Soups of real sweeps against a plain loop, and what a soup is to the other commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clipret import CompareConfig, EvalConfig, FeatureCache, compare, evaluate
from clipret.config.sweeps import SweepConfig
from clipret.errors import RunError
from clipret.evaluation.inputs import find_source
from clipret.evaluation.reproduction.matching import run_of
from clipret.heads.files import load_scalars, load_trained_on
from clipret.heads.linear import LinearHead
from clipret.machine.tensors import open_tensors, write_tensors
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum
from clipret.retrieval.ranks_file import read_rankings
from clipret.runs import read_config, read_result
from clipret.sweeps import resume_sweep, stage, sweep
from clipret.training import train_many
from clipret.training.repeating import repeated_config, resume
from tests.conftest import contents, write_cache


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cache(tmp_path / "made.h5", contents(images=150))

    def make(**changes):
        axes = {"epochs": 3, "batch_size": 16, "loss": "infonce", "lr": "1e-3,2e-3,3e-3", **changes.pop("axes", {})}
        given = {"cache": "made.h5", "axes": axes, "seeds": 2, "device": "cpu", "soup": True, "keep_heads": 100}
        return SweepConfig(**(given | changes))

    return make


def tensors_of(run):
    return {name: values for name, values in load_file(Path(run, "head.safetensors")).items() if name != "trained_on"}


def naive_soup(result, *, names):
    """Names of the runs in the soup, its tensors and its val rsum, by the loop of the paper on whole arrays."""
    cache = FeatureCache("made.h5")
    (fold,) = split_protocol(cache, split="val").folds
    gallery = Gallery.read(cache, fold)

    def score(heads):
        mean = {name: np.mean([head[name].astype(np.float64) for head in heads], axis=0) for name in heads[0]}
        mean = {name: values.astype(np.float32) for name, values in mean.items()}
        return rsum(gallery.measure(LinearHead(mean), device="cpu")), mean

    folder = Path(result["sweep"])
    values = {name: json.loads((folder / name / "result.json").read_text())["val_rsum"] for name in names}
    order = sorted(names, key=lambda name: -values[name])
    kept = [order[0]]
    best, soup = score([tensors_of(folder / order[0])])
    for name in order[1:]:
        value, mean = score([tensors_of(folder / other) for other in (*kept, name)])
        if value >= best:
            best, soup = value, mean
            kept.append(name)
    return kept, soup, best


def runs_of(result):
    return [
        Path(run).name for entry in sorted(result["configurations"], key=lambda e: e["number"]) for run in entry["runs"]
    ]


@pytest.fixture
def noisy(monkeypatch):
    """Give each run the ridge head with noise of its own in the place of what it was trained to, or noise alone."""

    def fake(configs, *, on_run, **options):
        cache = FeatureCache("made.h5")
        (fold,) = split_protocol(cache, split="val").folds
        gallery = Gallery.read(cache, fold)
        for place, (config, result) in enumerate(zip(configs, train_many(configs, going_on=True), strict=True)):
            path, generator = config.runs_dir / config.name / "head.safetensors", np.random.default_rng(place)
            file = open_tensors(path)
            tensors = file.read()
            for name in ("image_weight", "text_weight"):
                noise = torch.tensor(generator.normal(size=tensors[name].shape), dtype=torch.float32)
                noise *= tensors[name].std()
                tensors[name] = 3 * noise if place % 3 == 2 else tensors[name] + 0.5 * noise
            write_tensors(path, tensors, metadata={k: v for k, v in file.metadata.items() if k != "sha256"})
            result["val_rsum"] = rsum(gallery.measure(LinearHead(tensors), device="cpu"))
            Path(result["run"], "result.json").write_text(json.dumps(result))
            on_run(place, result)

    monkeypatch.setattr(stage, "train_many", fake)


@pytest.mark.ci
def test_heads_whose_noise_averages_out_are_accepted_and_noise_is_not(settings, noisy):
    axes = {"init": "ridge", "epochs": 0, "loss": "margin", "lr": "1e-3,2e-3,3e-3,4e-3"}
    result = sweep(settings(axes=axes, seeds=3))
    soup, names = result["soup"], runs_of(result)
    kept, tensors, value = naive_soup(result, names=names)
    assert soup["runs"] == kept
    assert soup["val_rsum"] == pytest.approx(value)
    assert len(names) == 12
    assert 1 < len(kept) <= 8
    assert not set(kept) & set(names[2::3])
    assert soup["val_rsum"] > soup["best_val_rsum"]
    for name, values in tensors_of(soup["run"]).items():
        np.testing.assert_allclose(values, tensors[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("axes", "seeds"), [({}, 2), ({"lr": "1e-2", "epochs": 6, "loss": "margin"}, 5), ({"loss": "infonce,sigmoid"}, 2)]
)
def test_the_soup_is_that_of_a_plain_loop(settings, axes, seeds):
    result = sweep(settings(axes=axes, seeds=seeds))
    soup, names = result["soup"], runs_of(result)
    kept, tensors, value = naive_soup(result, names=names)
    assert soup["runs"] == kept
    assert soup["val_rsum"] == pytest.approx(value)
    values = [read_result(f"{result['sweep']}/{name}")["val_rsum"] for name in names]
    assert soup["best_val_rsum"] == pytest.approx(max(values))
    assert (soup["heads"], soup["unlike"], soup["run"]) == (len(names), {}, f"{result['sweep']}/soup")
    ours = tensors_of(soup["run"])
    assert ours.keys() == tensors.keys()
    for name, of_soup in tensors.items():
        np.testing.assert_allclose(ours[name], of_soup, rtol=1e-6, atol=1e-7)


def test_the_soup_is_tested_once_after_it_was_accepted_on_val(settings, monkeypatch):
    measured, real = [], stage.evaluate
    monkeypatch.setattr(stage, "evaluate", lambda config: measured.append(str(config.head)) or real(config))
    result = sweep(settings())
    assert measured == [*result["chosen"]["runs"], result["soup"]["run"]]
    report = evaluate(EvalConfig(head=result["soup"]["run"], resamples=0))
    for direction in ("t2i", "i2t"):
        for cut in ("R@1", "R@5", "R@10"):
            assert result["soup"]["test"][direction][cut]["mean"] == report["results"]["trained"][direction][cut]


def test_without_the_option_there_is_no_soup(settings):
    result = sweep(settings(soup=False))
    assert "soup" not in result
    assert not Path(result["sweep"], "soup").exists()


def test_a_soup_is_a_run_whose_record_says_which_heads_are_in_it(settings):
    result = sweep(settings(axes={"loss": "infonce"}, keep_heads=1))
    soup = result["soup"]
    record, end = read_config(soup["run"]), read_result(soup["run"])
    assert record["soup"] == {"runs": soup["runs"], "heads": 6, "differing": record["soup"]["differing"]}
    assert "name" in record["soup"]["differing"]
    assert "loss" not in record["soup"]["differing"]
    assert record["config"]["name"] == "soup"
    assert end["val_rsum"] == soup["val_rsum"]
    evaluated = evaluate(EvalConfig(head=soup["run"], resamples=0))
    assert (evaluated["run"], evaluated["finished"]) == (soup["run"], True)
    assert evaluated["leakage"] == {"checked": True, "trained_on": 0, "images": 30}
    head = Path(soup["run"], "head.safetensors")
    of_best = Path(result["sweep"], Path(result["chosen"]["runs"][0]).name, "head.safetensors")
    np.testing.assert_array_equal(load_trained_on(head), load_trained_on(of_best))
    assert set(load_scalars(head)) == {"log_scale"}


def test_scalars_of_a_soup_are_the_means_of_its_heads(settings):
    result = sweep(settings(axes={"loss": "infonce"}))
    soup = result["soup"]
    values = [load_scalars(Path(result["sweep"], name, "head.safetensors"))["log_scale"] for name in soup["runs"]]
    assert load_scalars(Path(soup["run"], "head.safetensors"))["log_scale"] == pytest.approx(np.mean(values))


def test_heads_that_start_at_random_are_averaged_with_those_of_their_seed_only(settings):
    result = sweep(settings(axes={"head": "adapter"}))
    soup = result["soup"]
    (seed,) = {name.rpartition("-")[2] for name in soup["runs"]}
    assert soup["unlike"] == {"start": 3}
    assert seed in soup["runs"][0]


def test_heads_of_another_kind_settings_or_start_are_left_out(settings):
    grid = Path("grid.yaml")
    grid.write_text("- {head: adapter, adapter_ratio: [0.2, 0.6], lr: 1e-2}\n- {lr: 1e-2}\n- {lr: 1e-2, init: ridge}\n")
    config = SweepConfig(cache="made.h5", grid=grid, axes={"epochs": 3}, seeds=1, device="cpu", soup=True, keep_heads=9)
    result = sweep(config)
    unlike = result["soup"]["unlike"]
    assert result["soup"]["heads"] == 4
    kinds = {name: Path(name).name.split("-")[2] for name in runs_of(result)}
    best = result["soup"]["runs"][0]
    expected = {"kind": 2, "start": 1} if kinds[best] == "linear" else {"kind": 3}
    assert unlike == expected
    assert len(result["soup"]["runs"]) == 1
    assert tensors_of(result["soup"]["run"]).keys() == tensors_of(Path(result["sweep"], best)).keys()
    for name, values in tensors_of(result["soup"]["run"]).items():
        np.testing.assert_array_equal(values, tensors_of(Path(result["sweep"], best))[name])


def test_adapters_of_another_ratio_are_of_another_function(settings):
    result = sweep(settings(axes={"head": "adapter", "adapter_ratio": "0.2,0.6", "lr": "1e-2"}, seeds=1))
    assert result["soup"]["unlike"] == {"kind": 1}
    assert result["soup"]["heads"] == 2


def strip(result):
    return json.loads(json.dumps({**result, "seconds": 0}).replace("sweep-0002", "sweep-0001"))


@pytest.mark.parametrize("phase", ["soup", "test"])
@pytest.mark.parametrize("done", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_a_sweep_that_was_stopped_at_its_soup_resumes_to_the_same_one(settings, phase, done, monkeypatch):
    whole = sweep(settings(keep_heads=1))

    def stop(progress):
        if (progress.phase, progress.done) == (phase, done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(settings(keep_heads=1), on_progress=stop)
    # As a process leaves it that is killed while it writes.
    folder = Path("runs/sweep-0002/soup")
    folder.mkdir(exist_ok=True)
    (folder / "head.safetensors").write_bytes(b"half")
    (folder / "stray").write_bytes(b"")
    monkeypatch.setattr(stage, "train_many", None)
    resumed = resume_sweep("runs/sweep-0002")
    assert strip(resumed)["soup"] == strip(whole)["soup"]
    for name in ("head.safetensors", "result.json"):
        ours, theirs = (Path(f"runs/sweep-000{number}/soup/{name}").read_bytes() for number in (1, 2))
        assert ours == theirs.replace(b"sweep-0002", b"sweep-0001")
    assert not (folder / "stray").exists()
    assert resume_sweep("runs/sweep-0002") == resumed


def test_a_soup_is_compared_as_itself_and_never_pooled_with_its_best_run(settings):
    result = sweep(settings())
    soup, best = result["soup"]["run"], result["chosen"]["runs"][0]
    compared = compare(CompareConfig(runs=(soup, best, "zero-shot"), metrics=("R@1",), permutations=100))
    assert [group["label"] for group in compared["groups"]] == ["soup", Path(best).name, "zero-shot"]
    assert [group["runs"] for group in compared["groups"]] == [[soup], [best], ["zero-shot"]]
    trained = read_rankings(Path(soup, "ranks.safetensors")).trained
    assert (trained.run, trained.config, trained.finished) == (soup, None, True)
    assert compared["remarks"] == []


def test_what_a_soup_cannot_do_is_one_clear_line(settings):
    result = sweep(settings())
    soup = result["soup"]
    expected = (
        f"{soup['run']} is a soup, an average of {len(soup['runs'])} heads, and not a training; give one of its runs, "
        f"such as {result['sweep']}/{soup['runs'][0]}."
    )
    source = find_source(cache=None, head=Path(soup["run"]), zero_shot=False, runs_dir=Path("runs"))
    for refused in (
        lambda: resume(soup["run"]),
        lambda: repeated_config(soup["run"]),
        lambda: repeated_config(f"{soup['run']}/config.json"),
        lambda: run_of(source),
    ):
        with pytest.raises(RunError) as caught:
            refused()
        assert str(caught.value) == expected


def test_a_soup_moves_with_its_sweep(settings):
    result = sweep(settings())
    shutil.move(result["sweep"], "elsewhere")
    assert evaluate(EvalConfig(head="elsewhere/soup", resamples=0))["run"] == "elsewhere/soup"


def test_a_head_of_the_users_own_is_averaged_with_its_code(settings, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    result = sweep(settings(axes={"head": f"{tmp_path / 'own.py'}:Plain", "lr": "1e-2,3e-2"}, seeds="0,1"))
    soup = result["soup"]
    assert soup["unlike"] == {}
    assert Path(soup["run"], "own_head.py").read_text() == OWN
    report = evaluate(EvalConfig(head=soup["run"], split="val", resamples=0))
    assert report["rsum"]["trained"] == pytest.approx(soup["val_rsum"])


OWN = """
import torch


class Plain(torch.nn.Module):
    def __init__(self, projections):
        super().__init__()
        self.image = torch.nn.Parameter(projections["image/weight"])
        self.text = torch.nn.Parameter(projections["text/weight"])

    def embed_images(self, features):
        return features @ self.image

    def embed_texts(self, features):
        return features @ self.text
"""
