"""wise-ft: heads between CLIP's own and a trained one, alone and in evaluation."""

import json

import numpy as np
import pytest
import torch
import typer

from clipret import EvalConfig, FeatureCache, evaluate
from clipret.cli.evaluation import evaluate as command
from clipret.errors import UsageError
from clipret.heads.adapter import AdapterHead
from clipret.heads.files import save_head
from clipret.heads.interpolation import interpolate, wise_ft
from clipret.heads.linear import LinearHead
from clipret.reporting.curve import curve_sheets, without_curve
from tests.conftest import contents
from tests.helpers.drawing import drawn


@pytest.fixture
def projections():
    return contents(bias=True).projections


def moved(projections):
    """A linear head somewhere else than CLIP's."""
    generator = torch.Generator().manual_seed(0)
    tensors = LinearHead(projections).tensors
    return LinearHead(
        {name: tensor + torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    )


def save(head, path, cache):
    metadata = {"model": "made", "weights_sha256": cache.inputs["weights_sha256"], "fingerprint": cache.fingerprint}
    save_head(head, path=path, metadata=metadata)
    return path


@pytest.fixture
def head_path(cache_path, tmp_path):
    cache = FeatureCache(cache_path)
    return save(moved(cache.projections), tmp_path / "head.safetensors", cache)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_interpolation_is_the_weighted_sum_of_every_tensor(alpha):
    first, second = ({"a": torch.randn(3, 4), "b": torch.randn(2)} for _ in range(2))
    between = interpolate(first, second, alpha=alpha)
    for name in ("a", "b"):
        torch.testing.assert_close(between[name], (1 - alpha) * first[name] + alpha * second[name])


def test_the_ends_are_zero_shot_and_the_trained_head_to_the_bit(projections):
    head, clip = moved(projections), LinearHead(projections)
    for alpha, expected in ((0, clip), (1, head)):
        end = wise_ft(head, projections=projections, alpha=alpha)
        assert all(torch.equal(end.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_an_adapter_goes_from_an_up_of_zero_and_keeps_its_down_and_settings(projections):
    added = {"text_down": torch.randn(12, 3), "text_up": torch.randn(3, 12)}
    head = AdapterHead({**projections, **added}, ratio=0.7, relu=False)
    half = wise_ft(head, projections=projections, alpha=0.5)
    torch.testing.assert_close(half.text_up.detach(), added["text_up"] / 2)
    assert torch.equal(half.text_down, head.text_down)
    assert (half.ratio, half.relu) == (0.7, False)
    features = torch.randn(4, 16)
    start = wise_ft(head, projections=projections, alpha=0)
    torch.testing.assert_close(start.embed_texts(features), LinearHead(projections).embed_texts(features))


def test_evaluation_measures_every_alpha_beside_zero_shot_and_trained(cache_path, head_path):
    results = evaluate(EvalConfig(cache=cache_path, head=head_path, wise_ft=(1, 0.5, 0, 0.5)))["results"]
    assert list(results) == ["zero-shot", "wise-ft 0", "wise-ft 0.5", "wise-ft 1", "trained"]
    assert results["wise-ft 0"] == results["zero-shot"]
    assert results["wise-ft 1"] == results["trained"] != results["zero-shot"]
    cache = FeatureCache(cache_path)
    half = wise_ft(moved(cache.projections), projections=cache.projections, alpha=0.5)
    alone = save(half, head_path.with_name("half.safetensors"), cache)
    assert evaluate(EvalConfig(cache=cache_path, head=alone))["results"]["trained"] == results["wise-ft 0.5"]


def test_alphas_of_one_name_are_one():
    assert len(EvalConfig(wise_ft=(0.1, 0.1 + 1e-14, 0.2)).wise_ft) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wise_ft": (0.5, 1.5)}, "--wise-ft is 1.5; expected a value from 0 to 1."),
        ({"wise_ft": (float("nan"),)}, "--wise-ft is nan; expected a value from 0 to 1."),
        ({"wise_ft": np.linspace(0, 1, 1001)}, "--wise-ft has 1,001 values; expected at most 101."),
        (
            {"wise_ft": (0.5,), "zero_shot": True, "cache": "made.h5"},
            "--zero-shot and --wise-ft contradict each other; --wise-ft needs a trained head to go towards.",
        ),
    ],
)
def test_a_bad_alpha_ends_in_its_exact_line(settings, message):
    with pytest.raises(UsageError) as caught:
        EvalConfig(**settings)
    assert str(caught.value) == message


def call(*words):
    app = typer.Typer()
    app.command()(command)
    app([str(word) for word in words], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        ("0.5", ["0.5"]),
        ("1,0,0.25", ["0", "0.25", "1"]),
        ("0,0.1,...,1", ["0", *(f"0.{tenth}" for tenth in range(1, 10)), "1"]),
        ("0.2,0.3,…,0.5", ["0.2", "0.3", "0.4", "0.5"]),
        ("1,0.5,...,0", ["0", "0.5", "1"]),
    ],
)
def test_alphas_are_numbers_or_equal_steps(cache_path, head_path, tmp_path, text, alphas, capsys):
    out = tmp_path / "metrics.json"
    call("--cache", cache_path, "--head", head_path, "--wise-ft", text, "--out", out, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert [name.split()[1] for name in report["results"] if name.startswith("wise-ft ")] == alphas


@pytest.mark.parametrize("text", ["a", "", "0,,1", "0,0.3,...,1", "0,0,...,1", "0.5,0.6,...,0", "...", "0,nan,...,1"])
def test_alphas_that_cannot_be_read_end_in_their_exact_line(text):
    with pytest.raises(UsageError) as caught:
        call("--wise-ft", text)
    assert str(caught.value) == (
        f"--wise-ft is '{text}'; expected numbers from 0 to 1 separated by commas, such as 0.5, or "
        f"FIRST,SECOND,...,LAST in equal steps, such as 0,0.1,...,1."
    )


def made_report(*alphas, also=False):
    def directions(recall):
        return {
            direction: {"R@1": recall, "R@5": 0.5, "mAP@1": 0.9, "median_rank": 1.0} for direction in ("t2i", "i2t")
        }

    between = {f"wise-ft {alpha:g}": directions(0.4 - (alpha - 0.5) ** 2) for alpha in alphas}
    results = {"zero-shot": directions(0.15), **between, "trained": directions(0.15)}
    sums = {name: 2 * (metrics["t2i"]["R@1"] + 0.5) for name, metrics in results.items()}
    measured = {"protocol": {"name": "split", "split": "val"}, "results": results, "rsum": sums}
    return {**measured, **({"also": [measured]} if also else {})}


def test_the_curve_lists_every_alpha_and_marks_the_best_as_chosen_on_the_split():
    text = drawn(curve_sheets(made_report(0, 0.25, 0.5, 1)))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()[:1] in ("0", "1")}
    assert {alpha: row[:3] for alpha, row in rows.items()} == {
        "0": ["15.0", "15.0", "1.300"],
        "0.25": ["33.8", "33.8", "1.675"],
        "0.5": ["40.0", "40.0", "1.800"],
        "1": ["15.0", "15.0", "1.300"],
    }
    assert [alpha for alpha, row in rows.items() if row[-1] == "best"] == ["0.5"]
    assert len(rows["0.5"][3]) > len(rows["0.25"][3]) > len(rows["0"][3])
    assert "best alpha 0.5, chosen on this split: expect less on other data" in " ".join(text.split())
    assert "R@1 t2i" in text


def test_a_curve_leaves_the_table_of_metrics_and_a_single_alpha_stays_in_it():
    report = without_curve(made_report(0, 0.5, also=True))
    assert list(report["results"]) == list(report["also"][0]["results"]) == ["zero-shot", "trained"]
    single = made_report(0.5)
    assert without_curve(single) == single
    assert curve_sheets(single) == curve_sheets(made_report()) == ()


def test_every_protocol_has_its_curve():
    assert len(curve_sheets(made_report(0, 1, also=True))) == 2


def test_a_flat_curve_has_no_bars():
    text = drawn(curve_sheets(made_report(0, 1)))
    assert "█" not in text


def test_the_command_shows_metrics_and_curve(cache_path, head_path, capsys):
    call("--cache", cache_path, "--head", head_path, "--wise-ft", "0,0.5,...,1", "--quiet")
    text = capsys.readouterr().out
    assert text.count("zero-shot") == 2
    assert "wise-ft, test, protocol split" in text
    assert "wise-ft 0.5" not in text
