"""Preprocessing of transformers' models: the pixels of their own image processors."""

import re
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.backbones import load_backbone
from clipret.backbones.hf_files import find_source
from clipret.backbones.processors import LibraryCrop, PlainCrop, load_pixels
from tests.helpers.backbone_models import pictures
from tests.helpers.hf_models import SIDE, edit_json
from tests.helpers.hf_reference import library_of, message_of


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual", "dual-dino"])
def test_pixels_are_those_of_the_librarys_processor(hf_folders, kind):
    """Odd and even sizes: CLIP's centre crop of transformers is not torchvision's."""
    source = find_source(f"hf:{hf_folders(kind)}", download_root=None)
    pixels, processor = load_pixels(source, side=SIDE), library_of(hf_folders(kind))[1]
    assert isinstance(pixels.crop, PlainCrop)
    backbone = load_backbone(f"hf:{hf_folders(kind)}")
    generator = np.random.default_rng(3)
    for width, height in generator.integers(8, 140, size=(60, 2)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
        crop = pixels.crop(image)
        assert crop.tobytes() == LibraryCrop(processor, True)(image).tobytes(), (width, height)
        ours = backbone._normalise(torch.from_numpy(np.array(crop))[None])
        expected = processor(images=image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_images_of_other_modes_become_rgb_as_the_processor_does_it(hf_folders):
    _, processor, _ = library_of(hf_folders("clip"))
    backbone = load_backbone(f"hf:{hf_folders('clip')}")
    image = Image.fromarray(pictures(1, side=50)[0].numpy())
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    for other in (image.convert("L"), image.convert("P"), clear, image.convert("CMYK"), image.convert("1")):
        crop = backbone.crop(other)
        assert (crop.mode, crop.size) == ("RGB", (SIDE, SIDE))
        assert crop.tobytes() == LibraryCrop(processor, True)(other).tobytes()
        expected = processor(images=other, do_rescale=False, do_normalize=False)["pixel_values"][0]
        np.testing.assert_array_equal(np.array(crop), np.moveaxis(expected, 0, -1))
    assert ", transparency on white, " in backbone.preprocessing


def test_a_processor_that_converts_nothing_is_handed_rgb(hf_folders):
    backbone = load_backbone(f"hf:{hf_folders('dual')}")
    grey = Image.linear_gradient("L")
    assert backbone.crop(grey).tobytes() == backbone.crop(grey.convert("RGB")).tobytes()
    assert "transparency" not in backbone.preprocessing


def test_a_processor_that_does_more_is_used_as_it_is(hf_changed):
    folder = hf_changed("clip")
    edit_json(folder / "preprocessor_config.json", size={"shortest_edge": 24})
    source = find_source(f"hf:{folder}", download_root=None)
    pixels = load_pixels(source, side=SIDE)
    assert isinstance(pixels.crop, LibraryCrop)
    assert pixels.words.startswith("32 px, transparency on white, shortest side to 24, bicubic, centre crop 32, mean")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rescale_factor": 1 / 127.5},
            "the preprocessing of {0} multiplies pixels by 0.00784314; clipret supports 1/255 only: do_rescale true "
            "and rescale_factor 0.00392156862745098 in preprocessor_config.json.",
        ),
        (
            {"do_rescale": False},
            "the preprocessing of {0} multiplies pixels by 1; clipret supports 1/255 only: do_rescale true and "
            "rescale_factor 0.00392156862745098 in preprocessor_config.json.",
        ),
        (
            {"size": {"height": 32, "width": 48}},
            "the preprocessing of {0} makes images of 48 x 32 pixels (preprocessor_config.json); its "
            "model takes 32 x 32.",
        ),
        (
            {"size": {"shortest_edge": 32}},
            "the preprocessing of {0} makes images of 50 x 32 pixels (preprocessor_config.json); its "
            "model takes 32 x 32.",
        ),
        (
            {"image_processor_type": "MyImageProcessor", "auto_map": {"AutoImageProcessor": "code.MyImageProcessor"}},
            "the images of {0} are prepared by a MyImageProcessor, which transformers "
            + version("transformers")
            + " does not have; code of the folder's own is not run. Expected such as CLIPImageProcessor.",
        ),
    ],
    ids=["factor", "none", "oblong", "any", "unknown"],
)
def test_preprocessing_that_is_not_supported_is_refused(hf_changed, fields, message):
    folder = hf_changed("siglip")
    edit_json(folder / "preprocessor_config.json", **fields)
    assert message_of(folder) == message.format(f"hf:{folder}")


def test_a_processor_that_does_more_to_pixels_than_to_rescale_and_normalise_is_refused(hf_changed):
    folder = hf_changed("siglip")
    path = folder / "preprocessor_config.json"
    edit_json(path, image_processor_type="EfficientNetImageProcessor", include_top=True)
    assert re.fullmatch(
        rf"the preprocessing of hf:{re.escape(str(folder))}, a EfficientNetImageProcessor\w*, does more than to "
        r"resize, crop, rescale and normalise, which clipret does not support: pixels differ by [\d.e+-]+\.",
        message_of(folder),
    )


def test_a_processor_of_another_class_whose_pixels_can_be_made_is_taken_as_it_is(hf_changed):
    folder = hf_changed("siglip")
    path = folder / "preprocessor_config.json"
    edit_json(path, image_processor_type="ConvNextImageProcessor", size={"shortest_edge": SIDE}, crop_pct=0.8)
    pixels = load_pixels(find_source(f"hf:{folder}", download_root=None), side=SIDE)
    assert pixels.side == SIDE
    assert ", crop_pct 0.8, mean" in pixels.words
