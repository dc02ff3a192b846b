"""Reading and checking a caption file of COCO's size: make bench-check"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from benchmark import compare, run_process

# COCO 2017 has 118,287 + 5,000 images with 616,767 captions: 1 test image in 24.66, 5.0027 captions an image.
TRAIN_IMAGES, TEST_IMAGES, CAPTIONS = 118_287, 5_000, 616_767
WORDS = (
    *(
        "a",
        "the",
        "of",
        "with",
        "and",
        "on",
        "in",
        "at",
        "near",
        "two",
        "man",
        "woman",
        "people",
        "dog",
        "cat",
        "train",
    ),
    *("street", "kitchen", "table", "sitting", "standing", "holding", "riding", "red", "white", "black", "small"),
    *("large", "young", "old", "food", "plate", "field", "tennis", "baseball", "bathroom", "motorcycle", "umbrella"),
)


def write_tree(root: Path, *, share: float) -> int:
    """A COCO 2017 of that share of its size: all fields of the JSON, captions of COCO's lengths, images of no bytes.

    Returns the number of captions.
    """
    generator = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    next_image, next_caption = 9, 1
    for part, whole in (("train2017", TRAIN_IMAGES), ("val2017", TEST_IMAGES)):
        (root / part).mkdir()
        images, annotations = [], []
        for _ in range(max(1, round(whole * share))):
            next_image += int(generator.integers(1, 9))
            name = f"{next_image:012d}.jpg"
            (root / part / name).touch()
            images.append(
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{part}/{name}",
                    "height": 480,
                    "width": 640,
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
                    "id": next_image,
                }
            )
            for _ in range(5 if generator.random() > 0.003 else 6):
                # 8 to 40 words, 10.5 on average.
                words = generator.choice(WORDS, size=min(40, 8 + generator.geometric(0.3)))
                annotations.append({"image_id": next_image, "id": next_caption, "caption": " ".join(words) + "."})
                next_caption += 1
        content = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
    return next_caption - 1


def main() -> None:
    """Measure whole processes, Python's start and imports included."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of COCO's size")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        captions = write_tree(Path(folder), share=arguments.share)
        files = [f"{folder}/annotations/captions_{part}.json" for part in ("train2017", "val2017")]
        parse = f"import json\nfor file in {files!r}: json.load(open(file))"
        index = f"from pycocotools.coco import COCO\nfor file in {files!r}: COCO(file)"
        check = ["-m", "clipret", "check", "--dataset", "coco", "--root", folder, "--quiet"]
        compare(
            "check",
            work=f"{captions:,} captions, images looked for, tokens counted",
            floor="json.load alone",
            ways={
                "json.load alone": lambda: run_process(["-c", parse]),
                "pycocotools index": lambda: run_process(["-c", index]),
                "clipret check": lambda: run_process(check),
            },
            rounds=arguments.rounds,
        )


if __name__ == "__main__":
    main()
