"""Settings of writing embeddings."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.choices import ALL_SPLITS, DTYPES, SPLITS
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError


@documented
@dataclass(frozen=True)
class EmbedConfig:
    """Settings of writing the embeddings of a cache for other programs."""

    cache: Path = setting(help="A finished cache.", positional=True)
    out: Path = setting(help="File to write; its ending is the format.", option=("--out", "-o"), utf8=True)
    head: Path | None = setting(None, "A run's folder or a head.safetensors.", shown="as with --zero-shot", utf8=True)
    zero_shot: bool = setting(
        False, "Use the encoder's own head, or the closed-form one where it has none; the default without --head."
    )
    split: str = setting(
        ALL_SPLITS, f"{ALL_SPLITS}, or one of {', '.join(SPLITS)}.", choices=(ALL_SPLITS, *SPLITS), swept=False
    )
    dtype: str = setting("float32", "Type of the embeddings: float32 or float16.", choices=DTYPES)
    index: str | None = setting(
        None,
        "Also write an index of the images' and one of the captions' embeddings.",
    )
    replace: bool = setting(False, "Discard embeddings of another cache, head, split or type that are there.")
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
