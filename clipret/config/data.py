"""Settings of everything up to the cache: the data set, fetching it, extracting its features."""

import re
from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import MOST_SEED, above, as_paths, at_least, check_utf8, one_of, within
from clipret.config.choices import (
    BACKGROUNDS,
    CAPTION_CLEANINGS,
    COLUMNS,
    DATA_DIR,
    DECODINGS,
    DEVICES,
    DTYPES,
    PRECISIONS,
    SEED,
)
from clipret.errors import UsageError


@dataclass(frozen=True)
class DatasetConfig:
    """Settings that say which images and captions there are, and which split each image is in.

    dataset             a name, of datasets.NAMED, or the path of people's own data
    root                folder that holds the data set's files; each data set has its own default
    split               rule that gives each image its split, of those that the data set has; None: its default
    val_fraction        share of the training images that become `val`, where the data set comes without one (COCO)
    restval             whether Karpathy's `restval` images join `train`; they keep their own split otherwise
    captions_per_image  keep the first K captions of each image; None: all
    caption_clean       what is done to a caption before the prompt: none, lower, strip-punctuation
    prompt              text around every caption, {} standing for the caption
    columns             names of the columns in a table of one's own, as `image=file,caption=text`; captions may be in
                        several columns, `caption=first,caption=second`
    skip_missing        go on without the images that are not there
    """

    dataset: str
    root: Path | None = None
    split: str | None = None
    val_fraction: float = 0.05
    restval: bool = True
    captions_per_image: int | None = None
    caption_clean: str = "none"
    prompt: str = "{}"
    columns: str = ""
    skip_missing: bool = False

    def __post_init__(self):
        as_paths(self, "root")
        if not str(self.dataset).strip():
            raise UsageError("--dataset is empty; expected the name of a data set, or the path of your own data.")
        object.__setattr__(self, "dataset", str(self.dataset))
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"--val-fraction is {self.val_fraction}; expected a value from 0 to below 1.")
        if self.captions_per_image is not None:
            at_least("captions-per-image", self.captions_per_image, low=1, at_most=1_000_000)
        one_of("caption-clean", self.caption_clean, allowed=CAPTION_CLEANINGS)
        if self.prompt.count("{}") != 1:
            raise UsageError(f"--prompt is '{self.prompt}'; expected a text with one {{}} where the caption goes.")
        _ = self.column_names

    @property
    def column_names(self) -> dict[str, tuple[str, ...]]:
        """Our name of a column (COLUMNS) -> the table's, for all of them: one, of captions perhaps several."""
        names: dict[str, tuple[str, ...]] = {}
        for pair in filter(None, self.columns.split(",")):
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
        return {name: names.get(name, (name,)) for name in COLUMNS}


@dataclass(frozen=True)
class DownloadConfig:
    """Settings of fetching a data set's files.

    dataset           of datasets.DOWNLOADS
    root              folder to put the files in; data/DATASET by default
    annotations_only  without the images
    base_url          another server with the same paths below it; None: the data set's own
    jobs              files fetched at once
    keep_archives     leave the archives beside what was unpacked from them
    """

    dataset: str
    root: Path | None = None
    annotations_only: bool = False
    base_url: str | None = None
    jobs: int = 3
    keep_archives: bool = False

    def __post_init__(self):
        as_paths(self, "root")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise UsageError(
                f"--base-url is '{self.base_url}'; expected an address that starts with http:// or https://."
            )
        at_least("jobs", self.jobs, low=1, at_most=256)

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.root or DATA_DIR / self.dataset


@dataclass(frozen=True)
class ExtractConfig(DatasetConfig):
    """Settings of stage 1, extraction: those of the data set, and

    out             the cache to write; data/DATASET.h5 by default
    model           an OpenAI name, a bundled model, or the path of a checkpoint
    batch_size      images, or captions, a batch; None: what suits the device. The bits of a cache depend on it, so a
                    resumed cache keeps its own
    workers         processes that decode images and, on the CPU, encode; None: one a core
    read_timeout    seconds after which a worker process that still reads one image file counts as hanging
    dtype           how features are stored
    precision       what the towers compute in: fp32, fp16 (CUDA only), bf16; auto: fp16 on CUDA, fp32 on the CPU
    compile         whether the towers go through torch.compile
    decode          exact: images as clip reads them; fast: JPEGs decoded at a smaller scale or, on CUDA, by the GPU
    merge           several processes (torchrun): whether their shards end as one file, or stay, joined by reference
    background      what shows through transparent pixels: `white`, or `clip` for whatever clip's own transform makes of
                    them; None: the data set's own default
    max_problems    share of unreadable images above which extraction stops
    retry_problems  try images again that could not be read before
    device          auto: CUDA where there is one
    download_root   where OpenAI's weights are kept; None: ~/.cache/clip
    seed            nothing is drawn at random in extraction; accepted as everywhere
    """

    out: Path | None = None
    model: str = "ViT-B/32"
    batch_size: int | None = None
    workers: int | None = None
    read_timeout: float = 120.0
    dtype: str = "float16"
    precision: str = "auto"
    compile: bool = False
    decode: str = "exact"
    merge: bool = True
    background: str | None = None
    max_problems: float = 0.01
    retry_problems: bool = False
    device: str = "auto"
    download_root: Path | None = None
    seed: int = SEED

    def __post_init__(self):
        super().__post_init__()
        as_paths(self, "out", "download_root")
        check_utf8(self, "dataset", "root", "out", "model")
        if self.batch_size is not None:
            at_least("batch-size", self.batch_size, low=1, at_most=65_536)
        if self.workers is not None:
            at_least("workers", self.workers, low=0, at_most=1_024)
        above("read-timeout", self.read_timeout, low=0, at_most=86_400)
        one_of("dtype", self.dtype, allowed=DTYPES)
        one_of("precision", self.precision, allowed=PRECISIONS)
        one_of("decode", self.decode, allowed=DECODINGS)
        if self.background is not None:
            one_of("background", self.background, allowed=BACKGROUNDS)
        within("max-problems", self.max_problems, low=0, high=1)
        within("seed", self.seed, low=0, high=MOST_SEED)
        one_of("device", self.device, allowed=DEVICES)

    @property
    def cache(self) -> Path:
        """The cache that extraction writes."""
        path = Path(self.dataset)
        # Of a pattern, what its files have in common.
        name = re.split(r"[.{*?\[]", path.name)[0].rstrip("-_") or path.resolve().parent.name or "dataset"
        if (self.dataset, self.split) == ("coco", "karpathy"):
            name = "coco-karpathy"
        return self.out or DATA_DIR / f"{name}.h5"
