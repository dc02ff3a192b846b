"""Small pictures of image files."""

import io

import pytest
from PIL import Image

from clipret.images import draw_thumbnail


def encoded(image, kind="PNG", **settings):
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (128, 32)), ((100, 400), (32, 128)), ((50, 40), (50, 40))])
def test_they_fit_the_size_and_are_never_enlarged(size, expected):
    drawn = opened(draw_thumbnail(encoded(Image.new("RGB", size, "red")), size=128))
    assert (drawn.format, drawn.size) == ("JPEG", expected)


def test_transparency_is_on_white():
    drawn = opened(draw_thumbnail(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), size=64))
    assert min(drawn.getpixel((10, 10))) > 250


def test_they_stand_upright_and_hold_nothing_else():
    image = Image.new("RGB", (80, 40), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "secret"
    content = encoded(image, "JPEG", exif=exif)
    drawn = draw_thumbnail(content, size=64)
    assert opened(drawn).size == (32, 64)
    assert b"secret" in content
    assert b"secret" not in drawn


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "I;16", "CMYK"])
def test_every_mode_becomes_colour(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert opened(draw_thumbnail(encoded(Image.new(mode, (30, 20)), kind), size=64)).mode == "RGB"


def test_large_photographs_are_drawn_and_other_large_images_refused():
    photograph = encoded(Image.new("RGB", (9000, 5000), "green"), "JPEG")
    assert opened(draw_thumbnail(photograph, size=64)).size[0] == 64
    with pytest.raises(ValueError, match="more than 40,000,000 pixels"):
        draw_thumbnail(encoded(Image.new("1", (9000, 5000))), size=64)


def test_broken_files_are_refused():
    with pytest.raises(OSError, match="cannot identify image file"):
        draw_thumbnail(b"no image", size=64)
