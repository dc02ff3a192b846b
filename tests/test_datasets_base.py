import numpy as np
import pytest

from clipret.config import SPLITS
from clipret.datasets import load_dataset, split_by_hash
from clipret.datasets.base import RetrievalDataset
from clipret.errors import DatasetError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_a_split_by_hash_is_the_same_on_every_machine():
    named = [SPLITS[code] for code in split_by_hash(["1f600", "1f601", "2764-fe0f", "cat"], fractions=FRACTIONS)]
    assert named == ["val", "train", "val", "val"]


def test_adding_and_removing_keys_moves_no_other_key():
    keys = [str(number) for number in range(1000)]
    whole = dict(zip(keys, split_by_hash(keys, fractions=FRACTIONS), strict=True))
    fewer = keys[::-3]
    assert all(whole[key] == code for key, code in zip(fewer, split_by_hash(fewer, fractions=FRACTIONS), strict=True))


def test_the_shares_are_the_fractions_asked_for():
    shares = np.bincount(split_by_hash(map(str, range(20_000)), fractions=FRACTIONS), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_another_salt_gives_another_split():
    keys = [str(number) for number in range(100)]
    first, second = (split_by_hash(keys, fractions=FRACTIONS, salt=salt) for salt in ("one", "two"))
    assert (first != second).any()


def test_fractions_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"add up to 0\.7"):
        split_by_hash(["a"], fractions={"train": 0.7, "val": 0.1})


@pytest.mark.parametrize(("ids", "captions", "lacks"), [([], [], "images"), (["1"], [], "captions")])
def test_an_empty_data_set_is_refused(tmp_path, ids, captions, lacks):
    with pytest.raises(DatasetError, match=f"has no {lacks}; extraction needs at least one"):
        RetrievalDataset("made", tmp_path, ids, ids, np.zeros(len(ids), np.uint8), captions, np.zeros(0, np.int64))


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(DatasetError, match="unknown data set 'mnist'; expected one of: emoji, coco"):
        load_dataset("mnist")
