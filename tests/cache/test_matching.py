"""Which row is which of two caches, and what says that they are of other images, captions or splits."""

import numpy as np
import pytest

from clipret import write_cache
from clipret.cache import FeatureCache
from clipret.cache.matching import matched_rows
from clipret.errors import CacheMismatchError
from tests.conftest import digests_of
from tests.helpers.joint_caches import member, write_member
from tests.helpers.ready_made import embeddings

_REMEDY = "caches side by side are of the same images and captions: extract both from the same data set"


@pytest.fixture
def pair(tmp_path):
    """Two caches: the first, and a second with changes of its contents."""

    def write(*, digests=None, shuffled=False, **changes):
        first = write_member(tmp_path / "a.h5", member(seed=1, dims=(24, 16, 12)))
        stored = member(seed=2, dims=(10, 14, 6), shuffled=shuffled, **changes)
        return FeatureCache(first), FeatureCache(write_member(tmp_path / "b.h5", stored, digests=digests))

    return write


def refusal(first, other):
    with pytest.raises(CacheMismatchError) as refused:
        matched_rows(first, other)
    return str(refused.value)


def test_rows_in_the_same_order_need_no_table(pair):
    assert matched_rows(*pair()) == {}


def test_rows_in_another_order_are_found_by_file_and_caption(pair):
    first, other = pair(shuffled=True)
    rows = matched_rows(first, other)
    assert [other.image_files[row] for row in rows["image"]] == first.image_files
    assert [other.captions[row] for row in rows["text"]] == first.captions
    owners = [other.image_files[other.caption_images[row]] for row in rows["text"]]
    assert owners == [first.image_files[image] for image in first.caption_images]


def test_images_under_other_names_are_found_by_their_ids(pair):
    files = [f"COCO_{row:012d}.jpg" for row in range(60)]
    assert matched_rows(*pair(image_files=files)) == {}


def test_captions_of_one_image_with_one_text_follow_each_other(pair, tmp_path):
    stored = member(seed=3, dims=(24, 16, 12))
    texts = ["the same"] * len(stored.captions)
    one = FeatureCache(write_member(tmp_path / "c.h5", member(seed=3, dims=(24, 16, 12), captions=texts)))
    two = FeatureCache(
        write_member(tmp_path / "d.h5", member(seed=4, dims=(24, 16, 12), captions=texts, shuffled=True))
    )
    rows = matched_rows(one, two)
    assert sorted(rows["text"]) == list(range(len(texts)))
    for image in range(60):
        of_image = rows["text"][one.caption_images == image]
        assert (np.diff(of_image) > 0).all()
        assert set(two.caption_images[of_image]) == {rows["image"][image]}


def test_other_images_are_refused(pair):
    first, other = pair(image_files=[f"{row}.png" for row in range(60)], image_ids=[f"x{row}" for row in range(60)])
    assert refusal(first, other) == (
        f"{first.path} is of other images than {other.path}: 60 of its 60 are not in {other.path}, such as 0.jpg; "
        f"{_REMEDY}."
    )


@pytest.mark.parametrize("file", ["crops.jpg", ""])
def test_images_without_a_file_of_their_own_are_told_apart_by_their_ids(pair, file):
    files, ids = [file] * 60, [f"x{row}" for row in range(60)]
    first, other = pair(image_files=files, image_ids=ids)
    assert refusal(first, other) == (
        f"{first.path} is of other images than {other.path}: 60 of its 60 are not in {other.path}, such as "
        f"{first.image_ids[0]}; {_REMEDY}."
    )
    assert refusal(other, first) == (
        f"{other.path} is of other images than {first.path}: 60 of its 60 are not in {first.path}, such as x0; "
        f"{_REMEDY}."
    )


def test_more_images_are_refused(pair):
    first, other = pair()
    images, texts = len(first.image_files) - 1, int(np.flatnonzero(first.caption_images == 59)[0])
    fewer = {
        "image_files": first.image_files[:images],
        "image_ids": first.image_ids[:images],
        "image_splits": first.image_splits[:images],
        "captions": first.captions[:texts],
        "caption_images": first.caption_images[:texts],
        "caption_ids": first.caption_ids[:texts],
    }
    other.path.unlink()
    small, whole = pair(**fewer)[::-1]
    assert refusal(small, whole) == (
        f"{small.path} is of other images than {whole.path}: it has 59, {whole.path} 60; {_REMEDY}."
    )
    assert "1 of its 60 are not in" in refusal(whole, small)


def test_files_with_other_bytes_are_refused(pair):
    digests = digests_of(member(seed=1, dims=(24, 16, 12)).image_ids).copy()
    digests[7] += 1
    # Not known of this one.
    digests[8] = 0
    first, other = pair(digests=digests)
    assert refusal(first, other) == (
        f"{first.path} and {other.path} have files of the same name with other bytes: 1 images, such as 7.jpg; "
        f"{_REMEDY}."
    )


def test_other_splits_are_refused(pair):
    splits = member(seed=1, dims=(24, 16, 12)).image_splits.copy()
    splits[[0, 1]] = 2
    first, other = pair(image_splits=splits)
    assert refusal(first, other) == (
        f"2 images of {first.path} are of another split in {other.path}, such as 0.jpg, of train and of test; extract "
        f"both with the same splits."
    )


def test_other_captions_are_refused(pair):
    captions = list(member(seed=1, dims=(24, 16, 12)).captions)
    captions[3] = "something else"
    first, other = pair(captions=captions)
    count, image = len(captions), first.image_files[first.caption_images[3]]
    assert refusal(first, other) == (
        f"{first.path} has other captions than {other.path}: 1 of its {count} are not in {other.path}, such as "
        f"'caption 3' of {image}; {_REMEDY}."
    )
    assert "such as 'something else' of" in refusal(other, first)


def test_fewer_captions_are_refused(pair):
    stored = member(seed=1, dims=(24, 16, 12))
    owners, count = stored.caption_images, len(stored.captions)
    one = int(np.flatnonzero(np.diff(owners) == 0)[0])
    left = np.delete(np.arange(count), one)
    first, other = pair(
        captions=[stored.captions[row] for row in left],
        caption_ids=[str(row) for row in left],
        caption_images=owners[left],
    )
    assert refusal(other, first) == (
        f"{other.path} has other captions than {first.path}: it has {count - 1}, {first.path} {count}; {_REMEDY}."
    )


def import_rows(path, **more):
    images, texts = (embeddings(12, seed=seed)[1] for seed in (1, 2))
    write_cache(path, images=images, texts=texts, caption_images=np.arange(12), splits=["train"] * 12, **more)
    return FeatureCache(path)


def test_imported_rows_of_which_nothing_is_known_are_refused(tmp_path):
    message = refusal(import_rows(tmp_path / "a.h5"), import_rows(tmp_path / "b.h5"))
    assert message == (
        f"nothing tells which rows of {tmp_path / 'a.h5'} and {tmp_path / 'b.h5'} are of the same images and captions: "
        f"both were imported without paths, ids and captions; import them again with a --table that has some of these."
    )


@pytest.mark.parametrize("known", ["captions", "image_ids", "image_files"])
def test_imported_rows_are_found_by_what_is_known_of_them(tmp_path, known):
    texts = [f"text {row}" for row in range(12)]
    first, other = (import_rows(tmp_path / name, **{known: texts}) for name in ("a.h5", "b.h5"))
    assert matched_rows(first, other) == {}
