"""Banks: which images they are of, and cosines with a gallery in pieces of any size."""

import numpy as np
import pytest
import torch

from clipret import FeatureCache
from clipret.cache.image_keys import usable_rows
from clipret.errors import HeadError, UsageError
from clipret.heads.linear import LinearHead
from clipret.retrieval import banks
from clipret.retrieval.banks import Bank, leads, open_bank
from tests.conftest import contents, digests_of, write_cache

TRAIN, VAL, TEST = range(3)


def cache_of(path, splits, *, names=None):
    """A cache of images in these splits; equal names are equal files."""
    made = contents(images=len(splits), image_splits=np.array(splits, dtype=np.uint8))
    digests = digests_of(names or [str(row) for row in range(len(splits))])
    return FeatureCache(write_cache(path, made, digests=digests))


def opened(cache, *, measured, tuned=False):
    bank, val = open_bank(cache, measured=np.array(measured), tuned=tuned, scoring="nnn")
    return bank.rows["image"].tolist(), val.rows["image"].tolist()


def test_the_bank_is_train_and_parameters_are_chosen_on_val(tmp_path):
    cache = cache_of(tmp_path / "a.h5", [TRAIN, VAL, TEST, TRAIN, VAL, TEST])
    bank, val = open_bank(cache, measured=np.array([2, 5]), tuned=False, scoring="nnn")
    assert (bank.rows["image"].tolist(), val.rows["image"].tolist()) == ([0, 3], [1, 4])
    for of_side, images in ((bank.rows["text"], [0, 3]), (val.rows["text"], [1, 4])):
        assert of_side.tolist() == np.flatnonzero(np.isin(cache.caption_images, images)).tolist()


def test_no_image_that_is_measured_and_no_copy_of_one_is_in_the_bank_or_chosen_on(tmp_path):
    names = ["a", "val", "test", "test", "val", "test", "b", "c"]
    cache = cache_of(tmp_path / "a.h5", [TRAIN, VAL, TEST, TRAIN, TRAIN, VAL, TRAIN, VAL], names=names)
    assert opened(cache, measured=[2]) == ([0, 6], [1, 7])
    # As Karpathy's test images are, of which some are train and val images of COCO 2017.
    assert opened(cache, measured=[2, 0, 7]) == ([6], [1])


def test_where_val_is_measured_it_is_chosen_on_too(tmp_path):
    cache = cache_of(tmp_path / "a.h5", [TRAIN, VAL, TEST, TRAIN, VAL])
    assert opened(cache, measured=[1, 4], tuned=True) == ([0, 3], [1, 4])


@pytest.mark.parametrize(
    ("splits", "measured", "missing"),
    [
        ([VAL, TEST], [1], "'train' has 0 usable images and 0 captions"),
        ([TRAIN, TEST], [1], "'val' has 0 usable images and 0 captions"),
        ([TRAIN, VAL, TEST], [0, 2], "'train' has 0 usable images and 0 captions"),
    ],
)
def test_without_a_train_or_a_val_split_there_is_one_clear_line(tmp_path, splits, measured, missing):
    cache = cache_of(tmp_path / "a.h5", splits)
    with pytest.raises(UsageError) as caught:
        opened(cache, measured=measured)
    message = str(caught.value)
    assert message.startswith(
        "--scoring nnn needs a train split, as its bank, and a val split, to choose its parameters on, without the "
        f"images that are measured: split {missing}, expected at least one of each; images a split in this cache: "
    )
    assert "\n" not in message


class Everything:
    """Statistics that keep all cosines."""

    def __init__(self):
        self.parts = []

    def add(self, similarities):
        self.parts.append(similarities.clone())

    @property
    def whole(self):
        return torch.cat(self.parts, dim=1).double().numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("rows_at_once", "scores_at_once"), [(16384, 1 << 24), (5, 1), (7, 30), (1, 1 << 24)])
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_survey_has_each_cosine_once_in_pieces_of_any_size(
    cache_path, monkeypatch, side, rows_at_once, scores_at_once
):
    monkeypatch.setattr(banks, "_ROWS", rows_at_once)
    monkeypatch.setattr(banks, "_SCORES_AT_ONCE", scores_at_once)
    cache = FeatureCache(cache_path)
    head, rows = LinearHead(cache.projections), usable_rows(cache, split="train")
    gallery = unit(np.random.default_rng(0).normal(size=(9, 12)))
    statistics = Bank(cache, {side: rows}).survey(
        head, side, gallery=torch.tensor(gallery).float(), statistics=Everything(), precision="fp32"
    )
    features = cache.image_features if side == "image" else cache.text_features
    bank = unit(np.asarray(features, dtype=np.float64)[rows] @ cache.projections[f"{side}/weight"])
    assert max(part.numel() for part in statistics.parts) <= max(scores_at_once, len(gallery))
    np.testing.assert_allclose(statistics.whole, gallery @ bank.T, rtol=0, atol=1e-6)


def test_long_surveys_report_their_progress(cache_path, monkeypatch):
    cache = FeatureCache(cache_path)
    head, rows, steps = LinearHead(cache.projections), usable_rows(cache, split="train"), []
    settings = {"gallery": torch.eye(12)[:4], "precision": "fp32", "on_progress": steps.append}
    bank = Bank(cache, {"image": rows})
    bank.survey(head, "image", statistics=Everything(), **settings)
    assert steps == []
    monkeypatch.setattr(banks, "_LONG", 0)
    monkeypatch.setattr(banks, "_SCORES_AT_ONCE", 80)
    bank.survey(head, "image", statistics=Everything(), **settings)
    assert [(step.phase, step.done, step.total) for step in steps] == [("bank", 20, 36), ("bank", 36, 36)]


def test_a_head_that_overflows_on_the_bank_is_refused(cache_path):
    cache = FeatureCache(cache_path)
    head = LinearHead({**cache.projections, "image/weight": cache.projections["image/weight"] * np.float32(1e37)})
    with pytest.raises(HeadError, match="the embedding of image row 0 overflows or underflows in float32"):
        list(Bank(cache, {"image": np.array([0, 1])}).embedded(head, "image", device="cpu", precision="fp32"))


@pytest.mark.parametrize("scores_at_once", [1, 13, 1 << 24])
def test_queries_whose_best_item_is_a_member_lead_and_ties_count(monkeypatch, scores_at_once):
    monkeypatch.setattr(banks, "_SCORES_AT_ONCE", scores_at_once)
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-7]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [torch.nan, 0.0]])
    for members, expected in (
        ([0], [True, False, False, True, False]),
        ([2], [True, False, False, True, False]),
        ([1], [False, True, True, False, False]),
        ([0, 1], [True, True, True, True, False]),
        ([], [False] * 5),
    ):
        of_gallery = torch.zeros(3, dtype=torch.bool)
        of_gallery[members] = True
        assert leads(queries, gallery, members=of_gallery).tolist() == expected
