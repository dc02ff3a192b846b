import pytest

from clipret import EvalConfig
from clipret.config.metric_names import columns
from clipret.errors import UsageError


def test_families_are_written_out_at_every_k():
    assert columns(("R", "mAP@10", "R@5", "MRR", "rsum"), k=(1, 5)) == ("R@1", "R@5", "mAP@10", "MRR", "rsum")


def test_what_is_shown_is_measured_at_its_own_k_too():
    config = EvalConfig(k=(5, 1, 5), metrics=("nDCG@20", "R", "mAP@R"))
    assert config.k == (1, 5)
    assert config.columns == ("nDCG@20", "R@1", "R@5", "mAP@R")
    assert config.cuts == (1, 5, 20)


@pytest.mark.parametrize("word", ["r@1", "R@0", "R@", "R@1.5", "MRR@10", "precision", "rsum@1", "R-Precision@5"])
def test_an_unknown_metric_is_refused_with_the_known_ones(word):
    with pytest.raises(UsageError) as caught:
        EvalConfig(metrics=("R@1", word))
    assert str(caught.value) == (
        f"--metrics has '{word}'; expected some of: R, mAP, mAP_hits, mAP_all, recall, nDCG, MRR, R-Precision, mAP@R, "
        f"mean_rank, median_rank, rsum; also with a K, such as R@1: R, mAP, mAP_hits, mAP_all, recall, nDCG."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": ()}, "--metrics is nothing; expected names, such as R@1,R@10,rsum."),
        ({"k": ()}, "--k is nothing; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
        ({"k": (0, 5)}, "--k is 0,5; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
        ({"k": (10**10,)}, f"--k is {10**10}; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
        ({"resamples": -1}, "--resamples is -1; expected 0 for none, or a value from 100 to 1,000,000."),
        ({"resamples": 1}, "--resamples is 1; expected 0 for none, or a value from 100 to 1,000,000."),
        ({"resamples": 10**20}, f"--resamples is {10**20}; expected 0 for none, or a value from 100 to 1,000,000."),
        ({"top": 0}, "--top is 0; expected 1 or more."),
        ({"precision": "fp16"}, "--precision is 'fp16'; expected one of: fp32, tf32, bf16."),
    ],
)
def test_bad_settings_of_evaluation_are_refused(settings, said):
    with pytest.raises(UsageError) as caught:
        EvalConfig(**settings)
    assert str(caught.value) == said


@pytest.mark.parametrize("cut", ["0", "1000000001", "9" * 5000, "²", "-1", ""])
def test_a_cut_that_is_of_no_gallery_makes_no_name_of_a_metric(cut):
    with pytest.raises(UsageError, match=rf"^--metrics has 'R@{cut}'; expected some of: "):
        EvalConfig(metrics=(f"R@{cut}",))
    assert EvalConfig(metrics=("R@1000000000",)).cuts[-1] == 1_000_000_000
