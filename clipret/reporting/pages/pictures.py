"""Pictures inside a page, where they are at hand and as long as there is room for them."""

import base64
from pathlib import Path

from clipret.images import draw_thumbnail, read_file
from clipret.reporting.pages.markup import element, text

_SIZE, _QUALITY = 112, 72


class Pictures:
    """Thumbnails as data of the page.

    left_out  how many had no room, or could not be read
    """

    def __init__(self, root: Path, *, most_bytes: int):
        """root: folder of the images. most_bytes: of all pictures together, as they are in the page."""
        self._root, self._left = root, most_bytes
        self._drawn: dict[str, str | None] = {}
        self.shown, self.left_out = 0, 0

    def of(self, item: dict) -> str:
        """The picture of an item with `file` and perhaps `caption`; the file's name where there is none."""
        address = self.address(item["file"])
        if address is None:
            self.left_out += 1
            return element("span", text(item["file"]), kind="file")
        self.shown += 1
        name = item.get("caption") or item["file"]
        return f'<img src="{address}" alt="{text(name)}">'

    def address(self, file: str) -> str | None:
        """The picture as an address that holds it; None: it cannot be read, or there is no room."""
        if file not in self._drawn:
            self._drawn[file] = self._draw(file)
        address = self._drawn[file]
        if address is None or len(address) > self._left:
            return None
        self._left -= len(address)
        return address

    def _draw(self, file: str) -> str | None:
        try:
            content = draw_thumbnail(read_file(file, root=self._root, attempts=1), size=_SIZE, quality=_QUALITY)
        # A page is whole without its pictures, whatever is wrong with a file.
        except Exception:
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
