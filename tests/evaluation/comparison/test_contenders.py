from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipret.config import TrainConfig, to_dict
from clipret.errors import RunError, UsageError
from clipret.evaluation.comparison.contenders import choose_protocol, read_contenders
from clipret.evaluation.comparison.groups import make_groups
from clipret.retrieval.ranks_file import head_digest, read_rankings, write_rankings
from tests.helpers.ranked import described, random_head, write_measured, write_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def head(seed=0, images=6):
    return random_head(np.random.default_rng(seed), counts=np.full(images, 2))


def make_run(folder, **config):
    """A run of these settings."""
    return write_run(Path(folder), head(1), head(0), config=config)


def labels(*words):
    return [group.label for group in make_groups(read_contenders(words))]


def test_a_run_is_named_by_its_folder_its_head_or_a_file_of_its():
    make_run("runs/a")
    for word in ("runs/a", "runs/a/", "runs/a/head.safetensors", "runs/a/metrics.json", "runs/a/ranks.safetensors"):
        (contenders,) = read_contenders((word,))
        assert (contenders.word, contenders.head, contenders.seed) == (word, "trained", 0)
        assert contenders.ranks == Path("runs/a/ranks.safetensors")
        assert contenders.settings["loss"] == "margin"
        assert contenders.command == "clipret eval --head runs/a"


def test_ranks_in_another_folder_have_the_settings_of_the_measured_run_even_next_to_another_run():
    settings = to_dict(TrainConfig(cache="c.h5", loss="infonce", seed=3))
    heads = {"zero-shot": head(0), "trained": head(1)}
    make_run("runs/a", loss="triplet")
    for folder in (Path("told"), Path("runs/a")):
        write_measured(folder, [(described(head()), heads)], metrics="val.json", run="runs/gone", config=settings)
        for word in (f"{folder}/val.json", f"{folder}/val.ranks.safetensors"):
            (contenders,) = read_contenders((word,))
            assert contenders.ranks == folder / "val.ranks.safetensors"
            assert (contenders.settings["loss"], contenders.seed) == ("infonce", 3)


def test_a_head_that_was_trained_on_since_it_was_measured_is_refused():
    make_run("runs/a")
    path, ranks = Path("runs/a/head.safetensors"), Path("runs/a/ranks.safetensors")
    path.write_bytes(b"measured")
    rankings = read_rankings(ranks)
    sha256 = head_digest(path)
    write_rankings(ranks, replace(rankings, trained=replace(rankings.trained, sha256=sha256)))
    read_contenders(("runs/a",))
    path.write_bytes(b"trained on")
    for word in ("runs/a", "runs/a/metrics.json"):
        with pytest.raises(RunError) as caught:
            read_contenders((word,))
        assert str(caught.value) == (
            f"{word} was trained further after it was measured; measure it again with: clipret eval --head runs/a"
        )


def test_a_file_of_zero_shot_alone_is_zero_shot_and_has_no_settings():
    write_measured(Path("told"), [(described(head()), {"zero-shot": head()})], metrics="clip.json")
    (contenders,) = read_contenders(("told/clip.json",))
    assert (contenders.head, contenders.settings, contenders.seed) == ("zero-shot", None, None)
    assert contenders.command == "clipret eval --zero-shot --cache c.h5"


def test_ranks_without_metrics_or_a_run_are_enough():
    make_run("runs/a")
    Path("runs/a/metrics.json").unlink()
    Path("runs/a/config.json").unlink()
    (contenders,) = read_contenders(("runs/a/ranks.safetensors",))
    assert (contenders.head, contenders.seed, contenders.settings["loss"]) == ("trained", 0, "margin")


def test_zero_shot_is_that_of_the_first_other_one():
    make_run("runs/a")
    make_run("runs/b", lr=1e-3)
    contenders = read_contenders(("zero-shot", "runs/b", "runs/a"))
    assert [(contender.word, contender.ranks.parent.name, contender.head) for contender in contenders] == [
        ("zero-shot", "b", "zero-shot"),
        ("runs/b", "b", "trained"),
        ("runs/a", "a", "trained"),
    ]


def test_a_head_between_zero_shot_and_trained_is_named_by_its_alpha():
    for folder, seed in (("runs/a", 0), ("runs/b", 1)):
        write_run(Path(folder), head(1), head(0), between={"wise-ft 0.5": head(2)}, config={"seed": seed})
    for word in ("runs/a@0.5", "runs/a/metrics.json@.5", "runs/a/ranks.safetensors@0.50"):
        (contender,) = read_contenders((word,))
        assert (contender.word, contender.head, contender.seed) == (word, "wise-ft 0.5", 0)
        assert contender.settings["wise-ft"] == 0.5
    words = ("runs/a", "runs/a@0.5", "runs/b@0.5", "zero-shot")
    groups = make_groups(read_contenders(words))
    assert [(group.label, [contender.word for contender in group.members]) for group in groups] == [
        ("wise-ft=none", ["runs/a"]),
        ("wise-ft=0.5", ["runs/a@0.5", "runs/b@0.5"]),
        ("zero-shot", ["zero-shot"]),
    ]


def test_a_folder_whose_name_has_an_at_sign_is_itself():
    make_run("runs/a@0.5")
    (contenders,) = read_contenders(("runs/a@0.5",))
    assert (contenders.head, contenders.settings["wise-ft"]) == ("trained", None)


def make_scored(folder, **config):
    """A run that was measured by nnn too, with a head of wise-ft."""
    between = {"wise-ft 0.5": head(2), "zero-shot nnn": head(3), "wise-ft 0.5 nnn": head(4), "trained nnn": head(5)}
    return write_run(Path(folder), head(1), head(0), between=between, config=config)


def test_a_head_by_another_scoring_is_named_by_it_and_has_the_ranks_of_it():
    make_scored("runs/a")
    words = ("runs/a@nnn", "runs/a", "runs/a@0.5@nnn", "zero-shot@nnn", "zero-shot")
    contenders = read_contenders(words)
    assert [(contender.word, contender.head, contender.scoring) for contender in contenders] == [
        ("runs/a@nnn", "trained", "nnn"),
        ("runs/a", "trained", "cosine"),
        ("runs/a@0.5@nnn", "wise-ft 0.5", "nnn"),
        ("zero-shot@nnn", "zero-shot", "nnn"),
        ("zero-shot", "zero-shot", "cosine"),
    ]
    for contender, seed in zip(contenders, (5, 1, 4, 3, 0), strict=True):
        for direction, folds in contender.ranks_by("split").items():
            np.testing.assert_array_equal(folds[0].ranks, head(seed)[direction][0].ranks)
    assert [contender.command for contender in contenders] == [
        "clipret eval --head runs/a --scoring nnn",
        "clipret eval --head runs/a",
        "clipret eval --head runs/a --wise-ft 0.5 --scoring nnn",
        "clipret eval --zero-shot --cache c.h5 --scoring nnn",
        "clipret eval --zero-shot --cache c.h5",
    ]


def test_heads_by_different_scorings_are_no_seeds_of_one_another():
    make_scored("runs/a")
    make_scored("runs/b", seed=1)
    groups = make_groups(read_contenders(("runs/a", "runs/b@nnn", "runs/a@nnn", "zero-shot@nnn")))
    assert [(group.label, [contender.word for contender in group.members]) for group in groups] == [
        ("scoring=cosine", ["runs/a"]),
        ("scoring=nnn", ["runs/b@nnn", "runs/a@nnn"]),
        ("zero-shot@nnn", ["zero-shot@nnn"]),
    ]
    with pytest.raises(
        UsageError, match=r"^runs/a@nnn and runs/a/metrics.json@nnn are the same head; give one of them"
    ):
        read_contenders(("runs/a@nnn", "runs/a/metrics.json@nnn"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("runs/a@dis",),
            "runs/a@dis: it was measured by cosine only; measure it with: clipret eval --head runs/a --scoring dis",
        ),
        (
            ("runs/a", "zero-shot@nnn"),
            "zero-shot@nnn: it was measured by cosine only; measure it with: clipret eval --head runs/a --scoring nnn",
        ),
        (
            ("runs/new@nnn",),
            "runs/new was not measured; measure it with: clipret eval --head runs/new --scoring nnn",
        ),
        (("runs/a@mine",), "there is no runs/a@mine; expected a run's folder, a file that clipret eval wrote, "),
    ],
)
def test_a_head_that_was_not_measured_by_a_scoring_is_asked_for(words, message):
    make_run("runs/a")
    new = make_run("runs/new")
    Path(new, "ranks.safetensors").unlink()
    Path(new, "head.safetensors").write_bytes(b"")
    with pytest.raises(RunError) as caught:
        read_contenders(words)
    assert str(caught.value).startswith(message)


def test_a_folder_whose_name_ends_as_a_scoring_is_itself():
    make_run("runs/a@nnn")
    (contender,) = read_contenders(("runs/a@nnn",))
    assert (contender.head, contender.scoring) == ("trained", "cosine")


def test_settings_that_an_older_run_did_not_know_are_their_defaults():
    make_run("runs/a", seed=1)
    rankings = read_rankings(Path("runs/a/ranks.safetensors"))
    settings = {name: value for name, value in rankings.trained.config.items() if name not in ("ema", "warmup")}
    older = replace(rankings, trained=replace(rankings.trained, config=settings))
    write_rankings(Path("runs/a/ranks.safetensors"), older)
    make_run("runs/b", seed=2)
    make_run("runs/c", lr=1e-3)
    assert [len(group.members) for group in make_groups(read_contenders(("runs/a", "runs/b", "runs/c")))] == [2, 1]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "runs/b",
            "there is no runs/b; expected a run's folder, a file that clipret eval wrote, zero-shot or closed-form.",
        ),
        (
            "runs",
            "runs is not a run: it has no config.json; expected the folder of a run, such as runs/a.",
        ),
        (
            "empty",
            "empty is not a run: it has no config.json; expected the folder of a run, a file that eval wrote, "
            "zero-shot or closed-form.",
        ),
        (
            "runs/a@0.7",
            "runs/a was not measured as wise-ft 0.7; measure it with: clipret eval --head runs/a --wise-ft 0.7",
        ),
        ("runs/a@0.5.5", "there is no runs/a@0.5.5; expected a run's folder, a file that clipret eval wrote, "),
        ("new", "new was not measured; measure it with: clipret eval --head new"),
        (
            "swept",
            "swept has neither ranks nor a head: a sweep keeps the best heads and measures the best one; give it "
            "--test-all to compare all, or a larger --keep-heads to measure some.",
        ),
        (
            "old.json",
            "there is no old.ranks.safetensors beside old.json; measure again with: clipret eval --zero-shot --cache "
            "c.h5 --out old.json",
        ),
        (
            "runs/a/config.json",
            "runs/a/config.json is not what clipret eval writes: it lacks the field results; expected a run's ",
        ),
        ("c.h5", "c.h5 is not what clipret eval writes; expected a run's folder, or a metrics.json."),
        ("torn.json", "torn.json is not what clipret eval writes: it is not JSON: Expecting value, line 1, column 1; "),
        ("other.json", "other.json is not what clipret eval writes: it lacks the field results; expected a run's "),
        ("list.json", "list.json is not what clipret eval writes: it is a list; expected an object; "),
        ("deep.json", "deep.json is not what clipret eval writes: it nests too deep; "),
    ],
)
def test_what_was_not_measured_is_refused(word, message):
    make_run("runs/a")
    make_run("new")
    Path("new/ranks.safetensors").unlink()
    Path("new/head.safetensors").touch()
    make_run("swept")
    Path("swept/ranks.safetensors").unlink()
    Path("empty").mkdir()
    Path("c.h5").touch()
    texts = {
        "torn.json": "",
        "other.json": "{}",
        "list.json": '["results", "head", "cache"]',
        "deep.json": "[" * 100_000,
    }
    for name in ("old.json", *texts):
        write_measured(Path(), [(described(head()), {"zero-shot": head()})], metrics=name)
    Path("old.ranks.safetensors").unlink()
    for name, text in texts.items():
        Path(name).write_text(text)
    with pytest.raises(RunError) as caught:
        read_contenders((word, "runs/a"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs/a", "runs/a"), "runs/a was given twice; give it once."),
        (("runs/a", "runs/a/metrics.json"), "runs/a and runs/a/metrics.json are the same head; give one of them."),
        (("runs/a", "zero-shot", "zero-shot"), "zero-shot was given twice; give it once."),
        (("runs/a@0.5", "runs/a@.5"), "runs/a@0.5 and runs/a@.5 are the same head; give one of them."),
        (("zero-shot", "zero-shot"), "only `zero-shot` was given; name at least one run to compare it with."),
    ],
)
def test_the_same_head_twice_is_refused(words, message):
    write_run(Path("runs/a"), head(1), head(0), between={"wise-ft 0.5": head(2)})
    with pytest.raises(UsageError) as caught:
        read_contenders(words)
    assert str(caught.value) == message


def test_runs_that_differ_in_their_seed_and_places_alone_are_one_group():
    make_run("runs/a", seed=0)
    make_run("runs/b", seed=1, name="b", runs_dir="elsewhere", device="cpu", features="host")
    make_run("runs/c", seed=1, loss="infonce")
    groups = make_groups(read_contenders(("runs/a", "runs/c", "zero-shot", "runs/b")))
    assert [[contender.word for contender in group.members] for group in groups] == [
        ["runs/a", "runs/b"],
        ["runs/c"],
        ["zero-shot"],
    ]
    assert [group.label for group in groups] == ["loss=margin", "loss=infonce", "zero-shot"]


def test_settings_that_a_run_has_no_use_for_are_no_difference():
    make_run("runs/a", loss="infonce", margin="0.3")
    make_run("runs/b", loss="infonce", margin="0.1", adapter_reduction=8, seed=1)
    make_run("runs/c", margin="0.3")
    groups = make_groups(read_contenders(("runs/a", "runs/b", "runs/c")))
    assert [len(group.members) for group in groups] == [2, 1]
    assert [group.label for group in groups] == ["loss=infonce", "loss=margin"]


@pytest.mark.parametrize("about", [{"fingerprint": "0"}, {"model": "large"}])
def test_runs_on_other_features_are_not_other_seeds(about):
    make_run("runs/a", seed=0)
    write_run(Path("runs/b"), head(1), head(0), config={"seed": 1}, cache=about)
    assert len(make_groups(read_contenders(("runs/a", "runs/b")))) == 2


def test_the_same_seed_twice_is_refused():
    for name in ("a", "b", "c"):
        make_run(f"runs/{name}", seed=int(name != "a"))
    with pytest.raises(UsageError) as caught:
        make_groups(read_contenders(("runs/a", "runs/b", "runs/c", "zero-shot")))
    assert str(caught.value) == (
        "runs/b and runs/c have the same settings and the same seed, 1: they are one result; give one of them."
    )


def test_seeds_of_one_configuration_alone_are_nothing_to_compare():
    make_run("runs/a", seed=0)
    make_run("runs/b", seed=1)
    with pytest.raises(UsageError) as caught:
        make_groups(read_contenders(("runs/a", "runs/b")))
    assert str(caught.value) == (
        "runs/a, runs/b differ only in their seeds; add something to compare them with, such as zero-shot."
    )


def test_labels_are_the_fewest_settings_that_tell_the_groups_apart():
    make_run("runs/a")
    make_run("runs/b", loss="infonce", lr=1e-3)
    make_run("runs/c", lr=1e-3, ema=0.9)
    make_run("runs/d", lr=1e-3)
    assert labels("runs/a", "runs/b") == ["loss=margin", "loss=infonce"]
    assert labels("runs/a", "runs/b", "runs/c") == [
        "loss=margin lr=0.0001",
        "loss=infonce lr=0.001",
        "loss=margin lr=0.001",
    ]
    assert labels("runs/c", "runs/d") == ["ema=0.9", "ema=none"]
    assert labels("runs/b", "runs/c", "runs/d")[1:] == ["loss=margin ema=0.9", "loss=margin ema=none"]


def test_what_has_no_settings_of_its_own_is_named_by_its_run_or_file(monkeypatch):
    make_run("runs/a")
    make_run("runs/b", seed=1)
    assert labels("runs/a", "runs/b", "zero-shot") == ["a +1", "zero-shot"]
    assert labels("runs/b/metrics.json", "zero-shot") == ["b", "zero-shot"]
    for folder, seed in (("one", 0), ("two", 1)):
        write_measured(Path(folder), [(described(head()), {"zero-shot": head(seed)})], metrics="clip.json")
    assert labels("one/clip.json", "runs/a") == ["clip.json", "a"]
    assert labels("one/clip.json", "two/clip.json") == ["one/clip.json", "two/clip.json"]
    monkeypatch.chdir("runs/a")
    assert labels(".", "zero-shot") == ["a", "zero-shot"]


def test_a_model_tells_runs_apart_where_settings_do_not():
    make_run("runs/a")
    write_run(Path("runs/b"), head(1), head(0), cache={"model": "large"})
    assert labels("runs/a", "runs/b") == ["model=tiny", "model=large"]


def test_where_no_few_settings_tell_them_apart_runs_are_named():
    make_run("runs/a")
    write_run(Path("runs/b"), head(1), head(0), cache={"fingerprint": "0"})
    assert labels("runs/a", "runs/b") == ["a", "b"]


def test_the_protocol_is_the_first_that_all_have():
    heads = {"zero-shot": head(0), "trained": head(1)}
    one, two = described(head(), name="coco-val2017"), described(head(), name="coco-val2017-all", digest="e")
    write_measured(Path("a"), [(one, heads), (two, heads)])
    write_measured(Path("b"), [(two, heads)])
    contenders = read_contenders(("a", "b"))
    assert choose_protocol(contenders, None) == "coco-val2017-all"
    assert choose_protocol(contenders[:1], None) == "coco-val2017"
    assert choose_protocol(contenders[:1], "coco-val2017-all") == "coco-val2017-all"
    assert contenders[0].ranked("coco-val2017-all").protocol == two


def test_the_command_that_measures_a_head_of_wise_ft_the_same_way_has_its_alpha():
    write_run(Path("a"), head(), head(), description=described(head(), name="coco-val2017"))
    write_run(Path("b"), head(1), head(), between={"wise-ft 0.5": head(2)})
    with pytest.raises(UsageError, match=r"with: clipret eval --head b --wise-ft 0\.5 --protocol coco-val2017$"):
        choose_protocol(read_contenders(("a", "b@0.5")), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            None,
            "b was measured by coco-val2017-all, a by coco-val2017; measure it the same way with: "
            "clipret eval --head b --protocol coco-val2017",
        ),
        (
            "coco-val2017",
            "b was measured by coco-val2017-all; measure it the same way with: "
            "clipret eval --head b --protocol coco-val2017",
        ),
    ],
)
def test_other_protocols_are_refused(name, message):
    heads = {"zero-shot": head(0), "trained": head(1)}
    write_measured(Path("a"), [(described(head(), name="coco-val2017"), heads)])
    write_measured(Path("b"), [(described(head(), name="coco-val2017-all"), heads)])
    with pytest.raises(UsageError) as caught:
        choose_protocol(read_contenders(("a", "b")), name)
    assert str(caught.value) == message


def test_protocols_that_overlap_in_pairs_alone_are_refused():
    heads = {"zero-shot": head(0), "trained": head(1)}
    one, two = described(head(), name="coco-val2017"), described(head(), name="split")
    for folder, protocols in (("a", [one, two]), ("b", [one]), ("c", [two])):
        write_measured(Path(folder), [(description, heads) for description in protocols])
    with pytest.raises(UsageError) as caught:
        choose_protocol(read_contenders(("a", "b", "c")), None)
    assert str(caught.value) == (
        "c was measured by split, a by coco-val2017, split; measure it the same way with: "
        "clipret eval --head c --protocol coco-val2017"
    )


def test_heads_ranked_at_other_precisions_are_refused():
    make_run("runs/a")
    write_run(Path("runs/b"), head(1), head(0), description=described(head(1), precision="bf16"))
    with pytest.raises(UsageError) as caught:
        choose_protocol(read_contenders(("runs/a", "runs/b")), None)
    assert str(caught.value) == (
        "runs/a and runs/b were ranked as fp32 and bf16; measure both at the same --precision."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, "test and val"),
        ({"images": 1005}, "6 images and 1,005 images"),
        ({"captions": 11}, "12 captions and 11 captions"),
        ({"folds": 5}, "1 galleries and 5 galleries"),
        ({}, "6 images and 12 captions each, but not the same ones"),
    ],
)
def test_other_questions_are_refused_with_what_differs(change, message):
    make_run("runs/a")
    make_run("runs/b", lr=1e-3)
    contenders = read_contenders(("runs/a", "runs/b"))
    other = contenders[1].rankings.protocols[0]
    other = replace(other, protocol={**other.protocol, **change, "digest": "e"})
    contenders[1] = replace(contenders[1], rankings=replace(contenders[1].rankings, protocols=(other,)))
    with pytest.raises(UsageError) as caught:
        choose_protocol(contenders, None)
    assert str(caught.value) == (
        f"runs/a and runs/b were measured on different data by protocol split: {message}; "
        f"measure both on the same images and captions."
    )


def test_ranks_of_other_queries_under_the_same_digest_are_refused():
    write_run(Path("a"), head(1), head(0))
    other = random_head(np.random.default_rng(2), counts=np.array([1, 2]))
    write_run(Path("b"), other, other)
    with pytest.raises(RunError) as caught:
        choose_protocol(read_contenders(("a", "b")), None)
    assert str(caught.value) == (
        "a and b have ranks of different queries by protocol split although their digests are equal; measure both "
        "again."
    )
