"""Settings that make no difference, in Python and from a run's own config."""

from clipret import TrainConfig, train
from clipret.config.unused import unused_settings


def test_settings_that_make_no_difference_are_remarked(cache_path, tmp_path):
    config = TrainConfig(cache_path, runs_dir=tmp_path, loss="infonce", margin=0.2, epochs=1)
    assert train(config)["remarks"] == ["--margin is for --loss margin and triplet; the loss is infonce"]


def test_settings_at_their_defaults_and_those_in_use_are_not_remarked(cache_path):
    assert unused_settings(TrainConfig(cache_path, loss="infonce", temperature=0.1)) == []
    assert unused_settings(TrainConfig(cache_path, steps=5)) == []
    assert unused_settings(TrainConfig(cache_path, steps=5, epochs=3)) == [
        "--epochs makes no difference beside --steps 5; leave one of them out"
    ]


def test_a_run_is_repeated_with_another_loss_and_says_what_it_has_no_use_for(run, cache_path):
    words = ("--epochs", 1, "--batch-size", 16)
    assert run("train", "--cache", cache_path, "--margin", 0.2, "--name", "a", *words)[0] == 0
    status, out, _ = run("train", "--config", "runs/a", "--loss", "infonce")
    assert status == 0
    assert "Note: --margin is for --loss margin and triplet; the loss is infonce." in out
    status, _, err = run("train", "--config", "runs/a", "--loss", "infonce", "--margin", 0.3)
    assert (status, err) == (2, "error: --margin is for --loss margin and triplet; the loss is infonce.\n")
