"""Extract synthetic rows, and print the most memory that took, in MiB: python child_memory.py FOLDER ROWS"""

import io
import json
import resource
import sys
from pathlib import Path

from PIL import Image

from clipret import ExtractConfig, extract


def main() -> None:
    """So many images, different by their last bytes, with a caption each."""
    folder, rows = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    with (folder / "table.jsonl").open("w") as table:
        for number in range(rows):
            name = f"{number:07d}.png"
            (folder / name).write_bytes(buffer.getvalue() + number.to_bytes(4, "big"))
            caption = f"the picture number {number} of a long row of pictures"
            table.write(json.dumps({"image": name, "caption": caption}) + "\n")
    data = {"dataset": str(folder / "table.jsonl"), "root": folder, "out": folder / "table.h5"}
    extract(ExtractConfig(**data, model="tiny-emoji", device="cpu", workers=2))
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}\n")


if __name__ == "__main__":
    main()
