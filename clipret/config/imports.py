"""Settings of importing features that are there already."""

import os
from dataclasses import dataclass
from pathlib import Path

from clipret.config.choices import BACKGROUNDS, DTYPES, SPLITS
from clipret.config.data import column_names
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

# What features may be: final embeddings of length 1, final embeddings of any length, features before the projections.
FEATURE_KINDS = ("normalised", "final", "raw")
_SPLIT_RULES = ("given", "hash", *SPLITS)
_WHAT = "What they are"


@documented
@dataclass(frozen=True)
class FeaturesConfig:
    """What ready-made features are: nobody but who made them knows."""

    kind: str | None = setting(
        None,
        "normalised: final embeddings of length 1; final: of any length; raw: before the encoder's projections.",
        shown="normalised; with --projections raw",
        panel=_WHAT,
        choices=FEATURE_KINDS,
    )
    model: str | None = setting(
        None, "The encoder that made them, for the record and for verify --sample.", panel=_WHAT, utf8=True
    )
    dataset: str | None = setting(
        None, "Name of the data set, by which protocols know it.", shown="own-OUT", panel=_WHAT, utf8=True
    )
    root: Path | None = setting(None, "Folder that holds the images, for verify --sample.", panel=_WHAT, utf8=True)
    background: str = setting(
        "clip",
        "What was behind transparent pixels: white, or clip for what clip does.",
        panel=_WHAT,
        choices=BACKGROUNDS,
    )
    prompt: str = setting("{}", "Text that was around every caption; {} is the caption.", panel=_WHAT, utf8=True)
    dtype: str | None = setting(
        None,
        "Type of the stored features: float16 or float32.",
        shown="float16 if all are, else float32",
        panel=_WHAT,
        choices=DTYPES,
    )

    def __post_init__(self):
        check(self)
        if self.dataset is not None and not self.dataset.strip():
            raise UsageError("--dataset is empty; expected a name, or leave it out.")
        if self.prompt.count("{}") != 1:
            raise UsageError(f"--prompt is '{self.prompt}'; expected a text with one {{}} where the caption goes.")


@documented
@dataclass(frozen=True, kw_only=True)
class ImportConfig(FeaturesConfig):
    """Settings of importing features from files."""

    folder: Path | None = setting(
        None,
        "A folder that clip-retrieval wrote: img_emb, text_emb, metadata.",
        positional=True,
        utf8=True,
    )
    images: str | None = setting(
        None,
        "The images' features: .npy, .safetensors, .parquet or .arrow; several: a folder, or a pattern in quotes. "
        "FILE:NAME names a tensor or column.",
        utf8=True,
    )
    texts: str | None = setting(None, "The captions' features, in the same forms.", utf8=True)
    table: str | None = setting(
        None, "Parquet or Arrow with a row for each row of features: image, caption, split, id.", utf8=True
    )
    out: Path = setting(help="Cache to write.", option=("--out", "-o"), utf8=True)
    projections: Path | None = setting(
        None,
        "The encoder's projections: .npz or .safetensors with image/weight (D, E), text/weight and perhaps biases and "
        "logit_scale. The features are raw then.",
        panel=_WHAT,
        utf8=True,
    )
    split: str | None = setting(
        None,
        "given: the table's column; hash: of ids, paths or row numbers; or train, val, test, restval for all images.",
        shown="given if the table has one, else hash",
        choices=_SPLIT_RULES,
    )
    columns: str = setting(
        "",
        "Columns of the table, such as image=url,caption=alt_text.",
        shown="image_path, image or file_name; caption or text; split; no id",
    )
    fold: bool = setting(
        True, "Whether rows with the same image, one after the other, are one image with several captions."
    )

    def __post_init__(self):
        for name in ("images", "texts", "table"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, str(value))
        super().__post_init__()
        if self.folder is None and self.images is None and self.texts is None:
            raise UsageError(
                "import needs features: --images FILE, --texts FILE, or a folder that clip-retrieval wrote."
            )
        for name in ("images", "texts", "table"):
            if self.folder is not None and getattr(self, name) is not None:
                raise UsageError(
                    f"--{name} is beside the folder {self.folder}, which has its own; leave one of them out."
                )
        if self.projections is not None and self.kind not in (None, "raw"):
            raise UsageError(
                f"--kind is '{self.kind}' with --projections; features that go through projections are raw: leave "
                f"one of them out."
            )
        names = column_names(self.columns)
        if len(names.get("caption", ())) > 1:
            raise UsageError("--columns names several columns of captions; each row of features has one caption.")
        if self.columns and self.table is None and self.folder is None:
            raise UsageError("--columns is of use with --table only; give --table FILE, or leave it out.")
