"""Images padded to squares, so that the encoder's own resize and crop leave nothing out and stretch nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from clipret.backbones.protocol import Backbone


@dataclass(frozen=True)
class Padded:
    """PIL image -> PIL RGB image of S x S, by way of a square as wide as the image's long side. Can be pickled.

    crop    the encoder's own: PIL image -> PIL RGB image of S x S
    colour  of what is added, equally on both sides
    """

    crop: Callable[[Image.Image], Image.Image]
    colour: tuple[int, int, int]

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        side = max(width, height)
        if width == height:
            return self.crop(image)
        square = Image.new("RGB", (side, side), self.colour)
        square.paste(image.convert("RGB"), ((side - width) // 2, (side - height) // 2))
        return self.crop(square)


def crop_of(backbone: "Backbone", *, padded: bool) -> Callable[[Image.Image], Image.Image]:
    """PIL image -> PIL RGB image of S x S: the encoder's own, or of the image padded to a square."""
    return Padded(backbone.crop, backbone.mean_colour) if padded else backbone.crop
