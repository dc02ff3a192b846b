"""Errors, against plain loops over all scores of small caches: uneven captions, folds, other matches, ties."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from clipret import EvalConfig, FeatureCache, TrainConfig, evaluate, train
from clipret.config.failures import FailuresConfig
from clipret.errors import CacheMismatchError, LeakageError, RunError, UsageError
from clipret.evaluation import inputs as sources
from clipret.evaluation.failures import cut_into_bins, describe_hubs, find_failures, skewness
from clipret.evaluation.inputs import Inputs, Source
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import embed
from tests.conftest import contents, write_cache

WORDS = ("a", "dog", "on", "the", "red", "train", "near", "two")


def uneven(*, images=60, most=7, bare=True):
    """Contents whose images have 1 to `most` captions, and every ninth none where bare; captions of 1 to 8 words."""
    generator = np.random.default_rng(5)
    counts = generator.integers(1, most + 1, size=images)
    if bare:
        counts[4::9] = 0
    captions = [" ".join(WORDS[: generator.integers(1, 9)]) for _ in range(counts.sum())]
    return contents(
        images=images,
        captions=captions,
        caption_ids=[f"c{row}" for row in range(counts.sum())],
        caption_images=np.repeat(np.arange(images), counts),
    )


@pytest.fixture
def path(tmp_path):
    return write_cache(tmp_path / "made.h5", uneven())


@pytest.fixture
def run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return train(TrainConfig(cache=path, epochs=4, lr=3e-2))["run"]


class Naive:
    """One direction of one fold under some heads, by sorting every query's scores."""

    def __init__(self, cache, fold, heads, direction):
        self.cache, self.fold, self.direction = cache, fold, direction
        captions = range(len(fold.text_rows))
        pairs = fold.matches[direction] if fold.matches else (captions, fold.caption_images)
        if not fold.matches and direction == "i2t":
            pairs = pairs[::-1]
        pairs = [(int(query), int(item)) for query, item in zip(*pairs, strict=True)]
        self.rows = sorted({query for query, _ in pairs})
        self.matching = [sorted(item for query, item in pairs if query == row) for row in self.rows]
        self.first, self.best = {}, {}
        for name, head in heads.items():
            images = embed(head.embed_images, cache.read("image", fold.image_rows), device="cpu").numpy()
            texts = embed(head.embed_texts, cache.read("text", fold.text_rows), device="cpu").numpy()
            scores = images.astype(np.float64) @ texts.astype(np.float64).T
            scores = scores.T if direction == "t2i" else scores
            self.gallery = scores.shape[1]
            self.first[name] = [self._rank(scores[row], own) for row, own in zip(self.rows, self.matching, strict=True)]
            self.best[name] = [sorted(range(self.gallery), key=lambda item: -scores[row][item]) for row in self.rows]

    def _rank(self, scores, own):
        return min(
            1 + sum(scores[other] > scores[item] - 1e-6 for other in range(len(scores)) if other not in own)
            for item in own
        )

    def wrong(self, name, query):
        ahead = self.best[name][query][: self.first[name][query] - 1]
        return [self.item_id(item) for item in ahead[:3]]

    def item_id(self, item):
        if self.direction == "t2i":
            return self.cache.image_ids[self.fold.image_rows[item]]
        return self.cache.caption_ids[self.fold.text_rows[item]]

    def query_id(self, query):
        row = self.rows[query]
        if self.direction == "t2i":
            return self.cache.caption_ids[self.fold.text_rows[row]]
        return self.cache.image_ids[self.fold.image_rows[row]]

    def length(self, query):
        words = [len(self.cache.captions[row].split()) for row in self.fold.text_rows]
        if self.direction == "t2i":
            return words[self.rows[query]]
        own = [count for count, image in zip(words, self.fold.caption_images, strict=True) if image == self.rows[query]]
        return sum(own) / len(own) if own else None


def naive(cache, protocol, direction, run):
    inputs = Inputs(Source(cache.path, Path(run, "head.safetensors")), cache, "cpu")
    return [Naive(cache, fold, inputs.heads, direction) for fold in protocol.folds]


def pooled(folds):
    """(fold, place of the query in it) of all queries."""
    return [(number, query) for number, fold in enumerate(folds) for query in range(len(fold.rows))]


def check_query(described, folds, number, query):
    fold = folds[number]
    assert described["id"] == fold.query_id(query)
    assert described["fold"] == number
    assert described["ranks"] == {name: first[query] for name, first in fold.first.items()}
    assert described["matching"] == len(fold.matching[query])
    assert [item["id"] for item in described["expected"]] == [fold.item_id(item) for item in fold.matching[query][:3]]
    assert [item["id"] for item in described["retrieved"]] == fold.wrong("trained", query)


def check_direction(described, folds, *, top=10, queries=10):
    asked = pooled(folds)
    after, before = ({key: folds[key[0]].first[name][key[1]] for key in asked} for name in ("trained", "zero-shot"))
    assert described["queries"] == len(asked)
    worst = sorted(asked, key=lambda key: -after[key])
    assert len(described["worst"]) == min(queries, len(asked))
    for entry, key in zip(described["worst"], worst, strict=False):
        check_query(entry, folds, *key)
    check_changes(described["changed"], folds, before=before, after=after, queries=queries)
    for name in ("zero-shot", "trained"):
        check_hubs(described["hubs"], folds, name=name, top=top, queries=queries)
    firsts = {"zero-shot": before, "trained": after}
    check_figures(described["overall"], firsts, asked)
    lengths = {key: folds[key[0]].length(key[1]) for key in asked}
    positives = {key: len(folds[key[0]].matching[key[1]]) for key in asked}
    check_bins(described["breakdown"]["caption_length"], lengths, firsts=firsts)
    check_bins(described["breakdown"]["positives"], positives, firsts=firsts)


def check_changes(changed, folds, *, before, after, queries):
    change = {key: math.log(after[key] / before[key]) for key in before}
    assert changed["improved"] == sum(value < 0 for value in change.values())
    assert changed["worsened"] == sum(value > 0 for value in change.values())
    assert changed["same"] == sum(value == 0 for value in change.values())
    assert changed["mean_log2_ratio"] == pytest.approx(sum(change.values()) / len(change) / math.log(2))
    for name, sign in (("most_improved", -1), ("most_worsened", 1)):
        order = sorted(change, key=lambda key: (-sign * change[key], min(before[key], after[key])))
        expected = [key for key in order if sign * change[key] > 0][:queries]
        assert len(changed[name]) == len(expected) > 0
        for entry, key in zip(changed[name], expected, strict=True):
            check_query(entry, folds, *key)


def check_hubs(hubs, folds, *, name, top, queries):
    counts = {(number, item): 0 for number, fold in enumerate(folds) for item in range(fold.gallery)}
    for number, fold in enumerate(folds):
        for best in fold.best[name]:
            for item in best[:top]:
                counts[number, item] += 1
    summary, values = hubs[name], list(counts.values())
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    third = sum((value - mean) ** 3 for value in values) / len(values)
    assert summary["items"] == len(values)
    assert summary["slots"] == sum(values)
    assert summary["mean"] == pytest.approx(mean)
    assert summary["skewness"] == pytest.approx(third / deviation**3 if deviation else 0)
    assert summary["never_retrieved"] == values.count(0)
    assert summary["never_retrieved_share"] == values.count(0) / len(values)
    assert summary["top_items"] == math.ceil(len(values) / 100)
    assert summary["top_share"] == sum(sorted(values)[-summary["top_items"] :]) / sum(values)
    largest = [key for key in sorted(counts, key=lambda key: -counts[key]) if counts[key]][:queries]
    described = [(item["fold"], item["id"], item["counts"][name]) for item in summary["largest"]]
    assert described == [(number, folds[number].item_id(item), counts[number, item]) for number, item in largest]


def check_bins(described, by, *, firsts):
    with_value = [key for key in by if by[key] is not None]
    assert described["left_out"] == len(by) - len(with_value)
    assert sum(entry["queries"] for entry in described["bins"]) == len(with_value)
    assert all(one["high"] < other["low"] for one, other in zip(described["bins"], described["bins"][1:], strict=False))
    for entry in described["bins"]:
        in_bin = [key for key in with_value if entry["low"] <= by[key] <= entry["high"]]
        assert entry["queries"] == len(in_bin) > 0
        assert entry["few"] == (len(in_bin) < 30)
        assert entry["low"] == min(by[key] for key in in_bin)
        assert entry["high"] == max(by[key] for key in in_bin)
        check_figures(entry["results"], firsts, in_bin)


def check_figures(described, firsts, keys):
    for name, first in firsts.items():
        ranks = [first[key] for key in keys]
        assert described[name] == {
            "R@1": pytest.approx(sum(rank <= 1 for rank in ranks) / len(ranks)),
            "R@10": pytest.approx(sum(rank <= 10 for rank in ranks) / len(ranks)),
            "MRR": pytest.approx(sum(1 / rank for rank in ranks) / len(ranks)),
            "median_rank": np.median(ranks),
        }


@pytest.mark.parametrize(("split", "top", "queries"), [("test", 10, 10), ("val", 2, 3), ("test", 1, 1000)])
def test_all_of_it_equals_plain_loops(run, path, split, top, queries):
    report = find_failures(FailuresConfig(split=split, top=top, queries=queries))
    cache = FeatureCache(path)
    for direction, described in report["directions"].items():
        folds = naive(cache, split_protocol(cache, split=split), direction, run)
        check_direction(described, folds, top=top, queries=queries)


def test_bins_of_the_training_split_hold_every_query(run, path):
    report = find_failures(FailuresConfig(split="train", allow_leak=True))
    cache = FeatureCache(path)
    for direction, described in report["directions"].items():
        check_direction(described, naive(cache, split_protocol(cache, split="train"), direction, run))
        assert len(described["breakdown"]["caption_length"]["bins"]) > 3
    assert len(report["directions"]["i2t"]["breakdown"]["positives"]["bins"]) == 4
    assert len(report["directions"]["t2i"]["breakdown"]["positives"]["bins"]) == 1
    assert report["leakage"] == {"checked": True, "trained_on": 36, "images": 36}


@pytest.fixture
def use_protocol(monkeypatch):
    """Make the code use a made-up protocol."""

    def choose(protocol):
        monkeypatch.setattr(sources, "make_protocol", lambda cache, name: protocol)

    return choose


def test_folds_are_ranked_by_themselves_and_their_queries_put_together(run, path, use_protocol):
    cache = FeatureCache(path)
    test, val = (split_protocol(cache, split=split) for split in ("test", "val"))
    both = dataclasses.replace(test, folds=(*test.folds, *val.folds))
    use_protocol(both)
    steps = []
    report = find_failures(FailuresConfig(), on_progress=steps.append)
    for direction, described in report["directions"].items():
        check_direction(described, naive(cache, both, direction, run))
        assert {query["fold"] for query in described["worst"]} == {0, 1}
    assert {(step.phase, step.total) for step in steps} == {("ranking", 48)}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {12, 24, 36, 48} <= {step.done for step in steps}


def test_matches_that_are_not_all_captions_of_an_image_are_followed(run, path, use_protocol):
    cache = FeatureCache(path)
    protocol = split_protocol(cache, split="test")
    (fold,) = protocol.folds
    generator = np.random.default_rng(2)
    pairs = np.unique(generator.integers(0, [len(fold.text_rows), len(fold.image_rows)], size=(70, 2)), axis=0)
    captions, images = generator.permutation(pairs).T
    matches = {"t2i": (captions[:50], images[:50]), "i2t": (images, captions)}
    other = dataclasses.replace(protocol, folds=(dataclasses.replace(fold, matches=matches),))
    use_protocol(other)
    report = find_failures(FailuresConfig())
    for direction, described in report["directions"].items():
        check_direction(described, naive(cache, other, direction, run))
    bare = len(set(images.tolist()) - set(fold.caption_images.tolist()))
    assert report["directions"]["i2t"]["breakdown"]["caption_length"]["left_out"] == bare > 0
    assert len(report["directions"]["t2i"]["breakdown"]["positives"]["bins"]) > 1


def test_a_query_and_its_items_are_described_for_people(run, path):
    cache = FeatureCache(path)
    report = find_failures(FailuresConfig())
    query = report["directions"]["t2i"]["worst"][0]
    row = cache.caption_ids.index(query["id"])
    image = cache.caption_images[row]
    first = int(np.flatnonzero(cache.caption_images == image)[0])
    assert query["caption"] == cache.captions[row]
    assert (query["image"], query["file"]) == (cache.image_ids[image], cache.image_files[image])
    described = {"id": query["image"], "file": query["file"], "caption": cache.captions[first]}
    assert query["expected"] == [described]
    query = report["directions"]["i2t"]["worst"][0]
    image = cache.image_ids.index(query["id"])
    row = int(np.flatnonzero(cache.caption_images == image)[0])
    assert (query["file"], query["caption"]) == (cache.image_files[image], cache.captions[row])
    described = {"id": cache.caption_ids[row], "caption": cache.captions[row], "image": query["id"]}
    assert query["expected"][0] == {**described, "file": query["file"]}


def test_an_image_without_captions_has_none_to_be_known_by(run, path):
    images = find_failures(FailuresConfig(queries=1000))["directions"]["t2i"]["hubs"]["zero-shot"]["largest"]
    cache = FeatureCache(path)
    bare = {cache.image_ids[row] for row in range(60) if row not in cache.caption_images}
    assert {item["id"] for item in images if item["caption"] is None} == bare & {item["id"] for item in images} != set()


def test_equal_captions_rank_before_the_matching_one_and_none_is_wrong_at_rank_one(tmp_path):
    # Two images of the same feature with captions of the same feature: every score ties with its double.
    cache_contents = contents(
        images=3,
        dims=(2, 2, 2),
        image_splits=np.full(3, 2, dtype=np.uint8),
        captions=["one", "two", "three"],
        caption_ids=["a", "b", "c"],
        caption_images=np.arange(3),
        projections={
            "image/weight": np.eye(2, dtype=np.float32),
            "text/weight": np.eye(2, dtype=np.float32),
            "logit_scale": np.float32(0),
        },
    )
    from clipret.cache import open_writer

    features = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float16)
    with open_writer(tmp_path / "ties.h5", cache_contents) as writer:
        writer.write_images(0, features=features, problems={})
        writer.write_texts(0, features=features, tokens=np.full(3, 3))
    summary = find_failures(FailuresConfig(cache=tmp_path / "ties.h5", zero_shot=True))["directions"]["t2i"]
    described = {
        query["id"]: (query["ranks"], [item["id"] for item in query["retrieved"]]) for query in summary["worst"]
    }
    assert described == {
        "a": ({"zero-shot": 2}, ["101"]),
        "b": ({"zero-shot": 2}, ["100"]),
        "c": ({"zero-shot": 1}, []),
    }
    assert [query["id"] for query in summary["worst"]] == ["a", "b", "c"]


def test_in_a_gallery_smaller_than_k_every_item_is_retrieved_and_the_skewness_is_zero(path):
    report = find_failures(FailuresConfig(cache=path, zero_shot=True, split="test", top=1000))
    hubs = report["directions"]["t2i"]["hubs"]["zero-shot"]
    queries = report["directions"]["t2i"]["queries"]
    assert (hubs["skewness"], hubs["never_retrieved"], hubs["slots"]) == (0.0, 0, 12 * queries)
    assert {item["counts"]["zero-shot"] for item in hubs["largest"]} == {queries}
    assert hubs["top_share"] == pytest.approx(1 / 12)


def test_ranks_and_figures_are_those_of_eval(run):
    report, measured = find_failures(FailuresConfig(split="val")), evaluate(EvalConfig(split="val"))
    assert report["protocol"] == measured["protocol"]
    for name in ("cache", "run", "head", "leakage"):
        assert report[name] == measured[name]
    for direction, described in report["directions"].items():
        for head, figures in described["overall"].items():
            for name in ("R@1", "R@10", "median_rank"):
                assert figures[name] == pytest.approx(measured["results"][head][direction][name])


def test_the_result_is_kept_with_the_run_or_where_it_is_asked_for(run, tmp_path):
    report = find_failures(FailuresConfig())
    assert json.loads(Path(run, "failures.json").read_text(encoding="utf-8")) == report
    assert (report["format"], report["heads"], report["top"]) == (1, ["zero-shot", "trained"], 10)
    Path(run, "failures.json").unlink()
    report = find_failures(FailuresConfig(out=tmp_path / "here.json", queries=1))
    assert json.loads((tmp_path / "here.json").read_text(encoding="utf-8")) == report
    assert not Path(run, "failures.json").exists()


def test_zero_shot_alone_compares_nothing_and_leaves_no_file(path, tmp_path):
    before = set(tmp_path.iterdir())
    report = find_failures(FailuresConfig(cache=path, zero_shot=True))
    assert set(tmp_path.iterdir()) == before
    assert (report["run"], report["head"], report["leakage"]) == (None, None, None)
    for described in report["directions"].values():
        assert described["changed"] is None
        assert (
            list(described["hubs"])
            == list(described["overall"])
            == list(described["worst"][0]["ranks"])
            == ["zero-shot"]
        )


@pytest.mark.parametrize("settings", [{"block": 1}, {"block": 7}])
def test_the_block_changes_nothing(run, settings):
    assert find_failures(FailuresConfig(**settings)) == find_failures(FailuresConfig())


def test_what_eval_refuses_is_refused(run, path, tmp_path):
    with pytest.raises(LeakageError, match=r"^36 of the 36 train images were trained on by runs/0001-margin-linear: "):
        find_failures(FailuresConfig(split="train"))
    with pytest.raises(RunError, match=r"^there is no trained run in "):
        find_failures(FailuresConfig(runs_dir=tmp_path / "none"))
    with pytest.raises(UsageError, match=r"^split 'restval' has 0 usable images"):
        find_failures(FailuresConfig(split="restval"))
    path.unlink()
    write_cache(path, contents(inputs={**contents().inputs, "prompt": "a {}"}))
    with pytest.raises(CacheMismatchError, match=r" is not the cache that runs/0001-margin-linear was trained on: "):
        find_failures(FailuresConfig())


def test_an_output_that_cannot_be_written_is_reported(path, monkeypatch):
    with pytest.raises(UsageError) as caught:
        find_failures(FailuresConfig(cache=path, zero_shot=True, out="nowhere/here.json"))
    assert str(caught.value) == "--out is 'nowhere/here.json', but there is no folder nowhere; make it first."

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError) as caught:
        find_failures(FailuresConfig(cache=path, zero_shot=True, out="here.json"))
    assert str(caught.value) == "cannot write here.json: No space left on device; give another place with --out."
    assert not list(Path().glob("here*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "--queries is 0; expected 1 or more."),
        ({"top": 0}, "--top is 0; expected 1 or more."),
        ({"block": 0}, "--block is 0; expected 1 or more."),
        ({"zero_shot": True}, "--zero-shot needs a cache; give it with --cache FILE."),
        (
            {"zero_shot": True, "cache": "x.h5", "head": "runs/1"},
            "--zero-shot and --head contradict each other; give one of them.",
        ),
        (
            {"protocol": "coco-val2017", "split": "val"},
            "--split val and --protocol coco-val2017 contradict each other; every protocol but split and "
            "split-equal-texts has images of its own.",
        ),
        ({"split": "dev"}, "--split is 'dev'; expected one of: train, val, test, restval."),
        ({"device": "tpu"}, "--device is 'tpu'; expected one of: auto, cpu, cuda."),
        ({"precision": "fp16"}, "--precision is 'fp16'; expected one of: fp32, tf32, bf16."),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(settings, message):
    with pytest.raises(UsageError) as caught:
        FailuresConfig(**settings)
    assert str(caught.value) == message


def test_an_unknown_protocol_is_refused():
    with pytest.raises(
        UsageError, match=r"^--protocol is 'mine'; expected one of: split, split-equal-texts, coco-val2017, "
    ):
        FailuresConfig(protocol="mine")


def test_skewness_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for size in (2, 3, 50, 1000):
        counts = generator.poisson(1.5, size=size)
        counts[0] += 1
        assert skewness(counts) == pytest.approx(stats.skew(counts), abs=1e-12)


@pytest.mark.parametrize("counts", [[], [7], [3] * 50, [0, 0], [10**9] * 3])
def test_equal_counts_are_not_skewed(counts):
    assert skewness(np.array(counts)) == 0.0


def test_one_hub_among_many_is_skewed_to_it():
    counts = np.array([100] + [0] * 99)
    assert skewness(counts) == pytest.approx((99 - 1) / math.sqrt(99))
    hubs = describe_hubs(counts)
    assert (hubs["never_retrieved_share"], hubs["top_items"], hubs["top_share"]) == (0.99, 1, 1.0)
    assert skewness(-counts) == pytest.approx(-(99 - 1) / math.sqrt(99))


@pytest.mark.parametrize(("items", "top_items"), [(1, 1), (100, 1), (101, 2), (376, 4)])
def test_one_percent_of_the_items_is_at_least_one(items, top_items):
    hubs = describe_hubs(np.arange(items))
    assert hubs["top_items"] == top_items
    assert hubs["top_share"] == pytest.approx(sum(sorted(range(items))[-top_items:]) / max(1, sum(range(items))))


@pytest.mark.parametrize("high", [1, 3, 5, 6, 12, 1000])
@pytest.mark.parametrize("size", [1, 4, 5, 7, 500])
def test_bins_hold_about_equally_many_and_never_part_equal_values(size, high):
    values = np.random.default_rng(size).integers(0, high, size=size)
    bins, spans = cut_into_bins(values)
    different = sorted(set(values.tolist()))
    if len(different) <= 5:
        assert [(low, high) for low, high in spans] == [(value, value) for value in different]
    assert len(spans) <= 5
    for value, place in zip(values, bins, strict=True):
        assert spans[place][0] <= value <= spans[place][1]
        assert sum(low <= value <= high for low, high in spans) == 1
    if len(different) > 5:
        # A bin ends at the value where its share of the values is reached.
        ends = {sorted(values.tolist())[math.ceil(part * size / 5) - 1] for part in range(1, 6)}
        assert [high for _, high in spans] == sorted(ends)


def test_no_values_have_no_bins():
    bins, spans = cut_into_bins(np.zeros(0))
    assert (bins.tolist(), spans) == ([], [])
