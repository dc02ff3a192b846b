"""A small data set of drawings, extracted and trained on once, for searches."""

import csv
from pathlib import Path

from clipret import DatasetConfig, ExtractConfig, TrainConfig, extract, train
from clipret.datasets.emoji import load_emoji

# Of a caption that means harm, in pages and in terminals.
HARMFUL = '<script>document.title="taken"</script> & "quotes" \x1b[31mred'
_IMAGES = 160


class Searchable:
    """A cache of drawings with a run.

    cache   path
    run     its folder
    root    folder of the drawings
    """

    def __init__(self, cache: Path, run: Path, root: Path):
        self.cache, self.run, self.root = cache, run, root


def make_searchable(folder: Path) -> Searchable:
    """Extract a part of the emoji, with a caption that means harm, and train on it."""
    emoji = load_emoji(DatasetConfig(dataset="emoji"))
    splits = ("train", "train", "val", "test")
    with (folder / "drawings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split", "id"))
        for caption, image in zip(emoji.captions, emoji.caption_images.tolist(), strict=True):
            if image % 12 == 0 and image < 12 * _IMAGES:
                writer.writerow((emoji.image_files[image], caption, splits[image // 12 % 4], emoji.image_ids[image]))
        writer.writerow((emoji.image_files[0], HARMFUL, splits[0], emoji.image_ids[0]))
    out = folder / "drawings.h5"
    extract(
        ExtractConfig(
            dataset=str(folder / "drawings.csv"), root=emoji.root, model="tiny-emoji", out=out, workers=0, device="cpu"
        )
    )
    run = train(TrainConfig(cache=out, epochs=3, lr=1e-3, runs_dir=folder / "runs"))["run"]
    return Searchable(out, Path(run), Path(emoji.root))
