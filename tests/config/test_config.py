from pathlib import Path

import pytest

from clipret.config import DatasetConfig, DownloadConfig, ExtractConfig, Margin, MergeConfig, TrainConfig, to_command
from clipret.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "cache"),
    [
        ({"dataset": "coco"}, "coco"),
        ({"dataset": "coco", "split": "karpathy"}, "coco-karpathy"),
        ({"dataset": "flickr30k", "split": "karpathy"}, "flickr30k"),
        ({"dataset": "a/shop.v2.csv"}, "shop"),
        ({"dataset": "a/photos/"}, "photos"),
        ({"dataset": "a/train-{0000..0012}.tar"}, "train"),
        ({"dataset": "a/shards/{0000..0012}.tar"}, "shards"),
        ({"dataset": "a/shards/*.tar"}, "shards"),
    ],
)
def test_a_cache_is_called_after_its_data_set(settings, cache):
    assert ExtractConfig(**settings).cache == Path("data") / f"{cache}.h5"
    assert ExtractConfig(**settings, out="x.h5").cache == Path("x.h5")


def test_columns_are_ours_unless_named():
    assert DatasetConfig("x.csv").column_names == {name: (name,) for name in ("image", "caption", "split", "id")}
    named = DatasetConfig("x.csv", columns="image=a b, caption=text,").column_names
    assert (named["image"], named["caption"], named["split"]) == (("a b",), ("text",), ("split",))


def test_captions_may_be_in_several_columns_in_the_order_of_their_names():
    assert DatasetConfig("x.csv", columns="caption=b,image=i,caption=a").column_names["caption"] == ("b", "a")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("image=a,image=b", "--columns names the image twice, 'a' and 'b'; expected one column, or of captions"),
        ("caption=a,caption=a", "--columns names the caption twice, 'a' and 'a'; expected one column, or of captions"),
    ],
)
def test_a_column_that_is_named_twice_is_refused(columns, said):
    with pytest.raises(UsageError) as caught:
        DatasetConfig("x.csv", columns=columns)
    assert str(caught.value) == f"{said} several different ones."


def test_a_data_set_of_a_path_object_is_its_text():
    assert DatasetConfig(Path("a") / "b.csv").dataset == "a/b.csv"


def test_the_command_of_a_download_names_the_data_set_by_its_place():
    config = DownloadConfig("coco", root="my data", annotations_only=True, jobs=1)
    assert to_command("download", config) == "clipret download coco --root 'my data' --annotations-only --jobs 1"


def test_the_command_of_a_training_gives_its_settings_back():
    settings = {"margin": "auto:0.7", "log": ("tensorboard", "wandb"), "adapter_relu": False, "patience": 3}
    assert to_command("train", TrainConfig("x.h5", **settings)) == (
        "clipret train --cache x.h5 --no-adapter-relu --margin auto:0.7 --patience 3 --log tensorboard,wandb"
    )


@pytest.mark.parametrize(
    ("text", "kept", "middle", "quantile"),
    [
        (0.3, 0.3, 0.3, None),
        ("-0.25", -0.25, -0.25, None),
        ("0.5:0.1", "0.5:0.1", 0.3, None),
        ("auto", "auto", 0.0, 0.9),
        ("auto:0.5", "auto:0.5", 0.0, 0.5),
    ],
)
def test_a_margin_is_a_number_a_schedule_or_a_quantile(text, kept, middle, quantile):
    margin = Margin.parse(text)
    assert (margin.text, margin.at(0.5), margin.quantile) == (kept, pytest.approx(middle), quantile)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: ("dataset", ExtractConfig(text)),
        lambda text: ("root", ExtractConfig("x.csv", root=text)),
        lambda text: ("out", ExtractConfig("x.csv", out=text)),
        lambda text: ("model", ExtractConfig("x.csv", model=text)),
        lambda text: ("name", TrainConfig("x.h5", name=text)),
        lambda text: ("runs-dir", TrainConfig("x.h5", runs_dir=text)),
        lambda text: ("out", MergeConfig(("a.h5", "b.h5"), out=text)),
    ],
)
def test_a_path_that_is_not_utf8_is_refused_if_it_would_be_stored_as_text(make):
    option, _ = make("fine")
    with pytest.raises(UsageError) as caught:
        # As the system's bytes b"a\x9b" come in.
        make("a\udc9b")
    assert str(caught.value) == (
        f"--{option} is 'a\\udc9b', which is not UTF-8 and could not be kept as text; expected another name."
    )


def test_merged_caches_have_names_that_are_utf8():
    with pytest.raises(UsageError, match=r"--caches is .* which is not UTF-8"):
        MergeConfig(("a.h5", "\udc9b.h5"), out="c.h5")
