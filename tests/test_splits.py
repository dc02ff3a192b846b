import numpy as np

from clipret.splits import count_splits


def test_splits_without_images_are_left_out_and_captions_follow_their_image():
    splits, owners = np.array([0, 2, 2, 0, 0], dtype=np.uint8), np.array([1, 1, 0, 3])
    assert count_splits(splits, owners) == {"train": {"images": 3, "captions": 2}, "test": {"images": 2, "captions": 2}}
