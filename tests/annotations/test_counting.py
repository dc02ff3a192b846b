import numpy as np

from clipret.annotations.counting import caption_places, count_splits


def test_splits_without_images_are_left_out_and_captions_follow_their_image():
    splits, owners = np.array([0, 2, 2, 0, 0], dtype=np.uint8), np.array([1, 1, 0, 3])
    assert count_splits(splits, owners) == {"train": {"images": 3, "captions": 2}, "test": {"images": 2, "captions": 2}}


def test_a_captions_place_is_the_number_of_its_images_captions_before_it():
    generator = np.random.default_rng(0)
    for size in (0, 1, 7, 200):
        owners = generator.integers(0, 20, size=size)
        expected = [sum(owners[:row] == owner) for row, owner in enumerate(owners)]
        assert caption_places(owners).tolist() == expected
