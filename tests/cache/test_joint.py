"""Caches side by side: their features, projections, texts and fingerprint, and what cannot stand side by side."""

import shutil

import numpy as np
import pytest

from clipret.cache import FeatureCache, cache_paths, open_features, open_writer
from clipret.cache.columns import TextColumns
from clipret.errors import CacheError, CacheIncompleteError, CacheMismatchError
from tests.conftest import digests_of, write_cache
from tests.helpers.joint_caches import member, write_member, write_members
from tests.helpers.pair_caches import pair_contents


@pytest.fixture
def paths(tmp_path):
    return write_members(tmp_path)


def opened(*paths):
    return open_features(",".join(map(str, paths)))


def unit(cache, side, row):
    """(E,) float64: the zero-shot embedding of one row, written out."""
    projections = {name: np.asarray(values, np.float64) for name, values in cache.projections.items()}
    feature = np.asarray(cache.read(side, [row])[0], np.float64)
    projected = feature @ projections[f"{side}/weight"] + projections.get(f"{side}/bias", 0)
    return projected / np.sqrt((projected * projected).sum())


def test_the_joint_embedding_is_the_unit_embeddings_of_all_side_by_side(paths):
    joint, members = opened(*paths), [FeatureCache(path) for path in paths]
    names = {
        side: [list(getattr(one, name)) for one in members]
        for side, name in (("image", "image_files"), ("text", "captions"))
    }
    for side, columns in names.items():
        features = joint.read(side, np.arange(len(columns[0]))).astype(np.float64)
        projected = features @ joint.projections[f"{side}/weight"].astype(np.float64)
        for row, text in enumerate(columns[0]):
            expected = [unit(one, side, column.index(text)) for one, column in zip(members, columns, strict=True)]
            np.testing.assert_allclose(projected[row], np.concatenate(expected) / np.sqrt(2), atol=1e-6)


def test_a_joint_cosine_is_the_mean_of_the_cosines(paths):
    joint, members = opened(*paths), [FeatureCache(path) for path in paths]
    image, text = 7, 11
    rows = [(image, text)]
    rows.append(
        (members[1].image_files.index(joint.image_files[image]), members[1].captions.index(joint.captions[text]))
    )
    cosines = [unit(one, "image", i) @ unit(one, "text", t) for one, (i, t) in zip(members, rows, strict=True)]
    assert unit(joint, "image", image) @ unit(joint, "text", text) == pytest.approx(np.mean(cosines), abs=1e-6)


def test_texts_splits_and_images_are_those_of_the_first(paths):
    joint, first = opened(*paths), FeatureCache(paths[0])
    for name in ("image_ids", "image_files", "captions", "caption_ids"):
        assert getattr(joint, name) == getattr(first, name)
    for name in ("image_splits", "caption_images", "image_states", "text_states", "image_digests"):
        np.testing.assert_array_equal(getattr(joint, name), getattr(first, name))
    rows = np.arange(5)
    np.testing.assert_array_equal(joint.text_digests(rows), first.text_digests(rows))
    with TextColumns(joint, ("text/caption",)) as columns:
        assert columns.read("text/caption", rows) == first.captions[:5]


def test_a_row_has_the_same_bits_whatever_rows_are_read_with_it(paths):
    joint, other = opened(*paths), opened(*paths)
    whole = joint.read("text", np.arange(len(joint.captions)))
    for row in (40, 3, 77):
        np.testing.assert_array_equal(other.read("text", [row])[0], whole[row])
    np.testing.assert_array_equal(joint.features("text"), whole)
    np.testing.assert_array_equal(joint.features("text", split="val"), whole[joint.rows("text", split="val")])
    np.testing.assert_array_equal(joint.text_features, whole)
    # Of the member with a bias one number more.
    assert whole.shape[1] == joint.width("text") == 16 + 1 + 14
    assert whole.dtype == joint.dtype == np.float32


def test_a_member_without_projections_adds_features_and_nothing_to_zero_shot(paths, tmp_path):
    stored = member(seed=3, dims=(9, 8, 4), shuffled=True)
    pair = member(
        seed=3, dims=(9, 8, 4), shuffled=True, projections=pair_contents().projections, widths={"image": 9, "text": 8}
    )
    assert stored.captions == pair.captions
    silent = write_member(tmp_path / "pair.h5", pair)
    joint, alone = opened(paths[0], silent), FeatureCache(paths[0])
    np.testing.assert_allclose(unit(joint, "image", 4), unit(alone, "image", 4), atol=1e-6)
    added = joint.read("image", [4])[0, -9:]
    np.testing.assert_allclose(np.linalg.norm(added), 2**-0.5, rtol=1e-6)
    assert joint.about["remarks"] == [
        f"{silent} has no projections: it starts as zeros, and says nothing until it is learned from"
    ]


def test_members_without_projections_have_none_together(tmp_path):
    made = {"projections": pair_contents().projections}
    one = write_member(tmp_path / "a.h5", member(seed=1, dims=(9, 8, 4), widths={"image": 9, "text": 8}, **made))
    two = write_member(tmp_path / "b.h5", member(seed=2, dims=(7, 6, 4), widths={"image": 7, "text": 6}, **made))
    joint = opened(one, two)
    assert not joint.aligned
    assert joint.about["remarks"] == []
    np.testing.assert_allclose(joint.projections["logit_scale"], 2.66, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(joint.read("image", [0])), 1, rtol=1e-6)


def test_an_image_that_one_encoder_could_not_read_is_unusable(paths, tmp_path):
    stored = member(seed=4, dims=(10, 14, 6), shuffled=True)
    with open_writer(tmp_path / "c.h5", stored) as writer:
        features = np.ones((len(stored.image_ids), 10), np.float16)
        features[5] = 0
        writer.write_images(0, features=features, problems={5: "broken"}, digests=digests_of(stored.image_ids))
        writer.write_texts(
            0, features=np.ones((len(stored.captions), 14), np.float16), tokens=np.full(len(stored.captions), 5)
        )
    joint = opened(paths[0], tmp_path / "c.h5")
    row = joint.image_files.index(stored.image_files[5])
    assert joint.problems == {row: "broken"}
    assert np.flatnonzero(~joint.usable).tolist() == [row]
    assert not set(joint.rows("text")) & set(np.flatnonzero(joint.caption_images == row))
    assert np.isfinite(joint.features("image")).all()


def test_the_fingerprint_is_of_the_members_and_their_order(paths, tmp_path):
    one, two = opened(*paths), opened(*reversed(paths))
    moved = shutil.copy(paths[1], tmp_path / "moved.h5")
    assert one.fingerprint == opened(paths[0], moved).fingerprint
    other = write_member(tmp_path / "c.h5", member(seed=3, dims=(10, 14, 6)))
    assert len({one.fingerprint, two.fingerprint, opened(paths[0], other).fingerprint}) == 3
    assert one.inputs["weights_sha256"] not in [cache.inputs["weights_sha256"] for cache in one.members]


def test_a_file_with_a_comma_in_its_name_is_one_cache(tmp_path, monkeypatch):
    path = write_cache(tmp_path / "a,b.h5")
    assert cache_paths(path) == (path,)
    assert open_features(path).members[0].path == path
    assert [str(part) for part in cache_paths("x/a.h5,y/b.h5")] == ["x/a.h5", "y/b.h5"]


def test_a_name_too_few_is_an_error(paths):
    with pytest.raises(CacheError) as refused:
        open_features(f"{paths[0]},")
    assert str(refused.value) == (
        f"'{paths[0]},' names a cache without a name; expected paths with single commas between."
    )


def test_the_same_cache_twice_is_an_error(paths, tmp_path):
    mark, copy = FeatureCache(paths[0]).fingerprint[:12], shutil.copy(paths[0], tmp_path / "copy.h5")
    with pytest.raises(CacheMismatchError) as refused:
        opened(paths[0], paths[0])
    assert str(refused.value) == (
        f"{paths[0]} cannot stand beside {paths[0]}: it is there twice (fingerprint {mark}); give caches of different "
        f"encoders or settings."
    )
    with pytest.raises(CacheMismatchError) as refused:
        opened(paths[0], copy)
    assert str(refused.value) == (
        f"{copy} cannot stand beside {paths[0]}: {paths[0]} has the same features (fingerprint {mark}); give caches of "
        f"different encoders or settings."
    )


def test_an_incomplete_member_is_refused_with_the_command_that_completes_it(paths, tmp_path):
    stored = member(seed=4, dims=(10, 14, 6))
    with open_writer(tmp_path / "c.h5", stored) as writer:
        writer.write_images(
            0, features=np.ones((20, 10), np.float16), problems={}, digests=digests_of(stored.image_ids)[:20]
        )
    with pytest.raises(CacheIncompleteError) as refused:
        opened(paths[0], tmp_path / "c.h5")
    assert str(refused.value).startswith(f"{tmp_path / 'c.h5'} is incomplete: 40 of 60 images")
    assert str(refused.value).endswith("complete it with: clipret extract --dataset made")
    assert not open_features(f"{paths[0]},{tmp_path / 'c.h5'}", allow_incomplete=True).complete


def test_tokens_and_stored_rows_of_a_joint_cache_are_refused(paths):
    joint = opened(*paths)
    joint.require_tokens()
    with pytest.raises(CacheError) as refused:
        joint.require_tokens("image")
    assert str(refused.value) == (
        f"{joint.path} is 2 caches side by side, of which a head of kind block cannot read tokens; give one of them "
        f"with --cache, or another --head."
    )
    with pytest.raises(CacheError, match="has no rows of its own; open one of its caches"):
        joint.stored("image", range(3))
