"""Settings of stage 1: the data set, its download, extraction of its features."""

import re
from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.choices import (
    BACKGROUNDS,
    BATCH_SIZES,
    CAPTION_CLEANINGS,
    COLUMNS,
    DATA_DIR,
    DECODINGS,
    DTYPES,
    PRECISIONS,
    TAP_DTYPES,
    TAPS,
)
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

_DATA = "Data set"


@documented
@dataclass(frozen=True)
class DatasetConfig:
    """Settings that decide the images and captions, and the split of each image."""

    dataset: str = setting(
        help="The name of a data set, or the path of your own data.",
        panel=_DATA,
        utf8=True,
    )
    root: Path | None = setting(
        None, "Folder that holds the data set's files.", shown="its own", panel=_DATA, utf8=True
    )
    split: str | None = setting(
        None,
        "Rule that splits the images.",
        shown="the first that the data set has",
        panel=_DATA,
    )
    val_fraction: float = setting(
        0.05, "Share of COCO's training images that become val.", panel=_DATA, at_least=0, below=1
    )
    restval: bool = setting(True, "Whether Karpathy's restval joins train.", panel=_DATA)
    captions_per_image: int | None = setting(
        None, "Keep the first K captions of an image.", shown="all", panel=_DATA, at_least=1, at_most=1_000_000
    )
    caption_clean: str = setting(
        "none", "Captions before the prompt: none, lower or strip-punctuation.", panel=_DATA, choices=CAPTION_CLEANINGS
    )
    prompt: str = setting("{}", "Text around every caption; {} is the caption.", panel=_DATA)
    columns: str = setting(
        "",
        "Columns of your own table, such as image=file,caption=text; several of captions: caption=a,caption=b.",
        shown="image, caption, split, id",
        panel=_DATA,
    )
    skip_missing: bool = setting(False, "Go on without the images that are missing.", panel=_DATA)

    def __post_init__(self):
        object.__setattr__(self, "dataset", str(self.dataset))
        check(self)
        if not self.dataset.strip():
            raise UsageError("--dataset is empty; expected the name of a data set, or the path of your own data.")
        if self.prompt.count("{}") != 1:
            raise UsageError(f"--prompt is '{self.prompt}'; expected a text with one {{}} where the caption goes.")
        _ = self.column_names

    @property
    def column_names(self) -> dict[str, tuple[str, ...]]:
        """Our name of a column (COLUMNS) -> the table's columns: one, or for captions possibly several."""
        names = column_names(self.columns)
        return {name: names.get(name, (name,)) for name in COLUMNS}


def column_names(text: str) -> dict[str, tuple[str, ...]]:
    """Our name of a column (COLUMNS) -> the table's, for those that --columns names. Raises UsageError."""
    names: dict[str, tuple[str, ...]] = {}
    for pair in filter(None, text.split(",")):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if ours not in COLUMNS or not theirs:
            raise UsageError(
                f"--columns has '{pair}'; expected NAME=COLUMN with NAME one of {', '.join(COLUMNS)}, "
                f"such as image=file,caption=text."
            )
        if ours in names and (ours != "caption" or theirs in names[ours]):
            raise UsageError(
                f"--columns names the {ours} twice, '{names[ours][-1]}' and '{theirs}'; expected one column, or of "
                f"captions several different ones."
            )
        names[ours] = (*names.get(ours, ()), theirs)
    return names


@documented
@dataclass(frozen=True)
class CheckConfig(DatasetConfig):
    """Settings of checking a data set: those of the data set, and the model whose tokenizer counts tokens."""

    model: str = setting("ViT-B/32", "The model.", utf8=True)
    download_root: Path | None = shared.download_root()


@documented
@dataclass(frozen=True)
class DownloadConfig:
    """Settings of downloading a data set."""

    dataset: str = setting(help="The name of a data set.", positional=True)
    root: Path | None = setting(None, "Folder to put it in.", shown="data/DATASET")
    annotations_only: bool = setting(False, "Without the images.")
    base_url: str | None = setting(None, "A mirror with the same paths.", shown="the data set's own server")
    jobs: int = setting(3, "Files fetched at once.", at_least=1, at_most=256)
    keep_archives: bool = setting(False, "Leave the archives beside what was unpacked.")

    def __post_init__(self):
        check(self)
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise UsageError(
                f"--base-url is '{self.base_url}'; expected an address that starts with http:// or https://."
            )

    @property
    def folder(self) -> Path:
        """The folder for the files."""
        return self.root or DATA_DIR / self.dataset


@documented
@dataclass(frozen=True)
class ExtractConfig(CheckConfig):
    """Settings of stage 1, extraction: those of the data set, the model and the cache."""

    out: Path | None = setting(None, "Cache to write.", shown="data/DATASET.h5", utf8=True)
    batch_size: int | None = setting(
        None,
        "Images, and captions, a batch. The last bits of features depend on it; a cache keeps the one it began with.",
        shown=f"{BATCH_SIZES['cpu']} on the CPU, {BATCH_SIZES['cuda']} on a GPU",
        at_least=1,
        at_most=65_536,
    )
    workers: int | None = setting(
        None,
        "Processes that decode images and, on the CPU, encode; auto: one a core.",
        auto="auto",
        at_least=0,
        at_most=1_024,
    )
    read_timeout: float = setting(
        120.0, "Seconds after which a process that still reads one image counts as hanging.", above=0, at_most=86_400
    )
    dtype: str = setting("float16", "Type of the stored features: float16 or float32.", choices=DTYPES)
    tap: str = setting(
        "none",
        "Keep the tokens that go into the last block too, for heads of kind block: block or both (sides), image, text.",
        choices=tuple(TAPS),
    )
    tap_dtype: str = setting(
        "float16",
        "Type of those tokens: float16, or int8 with a scale for each token.",
        choices=TAP_DTYPES,
    )
    precision: str = setting(
        "auto", "Of the model: fp32, fp16 (GPU) or bf16; auto: fp16 on a GPU, fp32 on the CPU.", choices=PRECISIONS
    )
    compile: bool = setting(False, "Compile the model with torch.compile, on a GPU.")
    decode: str = setting(
        "exact", "exact: pixels as clip's; fast: JPEGs at a smaller scale, or decoded by the GPU.", choices=DECODINGS
    )
    merge: bool = setting(True, "With torchrun: one file in the end, or the processes' files, joined by reference.")
    pad_images: bool = setting(
        False, "Pad images to squares first, so that nothing is cropped; it helps some models and harms others."
    )
    background: str | None = setting(
        None,
        "Behind transparent pixels: white, or clip for what clip does.",
        shown="the data set's",
        choices=BACKGROUNDS,
    )
    max_problems: float = setting(
        0.01, "Stop when more than this share of the images cannot be read: 0.01 is 1 %.", between=(0, 1)
    )
    retry_problems: bool = setting(False, "Try the images again that could not be read before.")
    device: str = shared.device()
    seed: int = shared.seed("Accepted as by every command; extraction draws nothing at random.")

    @property
    def tap_sides(self) -> tuple[str, ...]:
        """The sides whose tokens are kept."""
        return TAPS[self.tap]

    @property
    def cache(self) -> Path:
        """The cache that extraction writes."""
        path = Path(self.dataset)
        # For a pattern, the common prefix of its files.
        name = re.split(r"[.{*?\[]", path.name)[0].rstrip("-_") or path.resolve().parent.name or "dataset"
        if (self.dataset, self.split) == ("coco", "karpathy"):
            name = "coco-karpathy"
        return self.out or DATA_DIR / f"{name}.h5"
