"""Settings of search and of the web service."""

import re
from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.settings import check, documented, setting
from clipret.errors import UsageError

# What is looked for.
FINDS = ("images", "captions")
AUTO = "auto"
MOST_HITS = 1000
_MOST_PORT = 65_535
_NAME = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]|[0-9A-Fa-f:]+")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")


@documented
@dataclass(frozen=True)
class SearchConfig:
    """Settings of searching a cache for images or captions."""

    cache: Path = setting(help="A finished cache of clipret extract.", positional=True)
    query: str | None = setting(
        None, 'What to look for, such as "two dogs"; "2:a dog + snow - beach" adds and subtracts.', positional=True
    )
    image: Path | None = setting(None, "Look for what is like this picture; beside words, it is added to them.")
    head: Path | None = setting(None, "A run's folder or a head.safetensors.", shown="as with --zero-shot")
    zero_shot: bool = setting(
        False, "Use the encoder's own head, or the closed-form one where it has none; the default without --head."
    )
    find: str = setting("images", f"What is looked for: {' or '.join(FINDS)}.", choices=FINDS, swept=False)
    k: int = setting(10, "Hits of a query.", option=("-k", "--k"), at_least=1, at_most=MOST_HITS, swept=False)
    split: str = shared.gallery_split()
    min_score: str | None = setting(
        None, "Leave out hits below this cosine; auto: calibrated on split val, for --precision.", metavar="NUMBER|auto"
    )
    precision: float = setting(
        0.5, "Share of hits on val that match, from the score of --min-score auto on.", between=(0, 1), swept=False
    )
    queries: Path | None = setting(None, "File of queries, one a line; with --out.")
    out: Path | None = setting(
        None, "File to write the hits of --queries to: .parquet or .csv.", option=("--out", "-o")
    )
    index: str | None = setting(None, "Build, and search by, an approximate index, for tens of millions of images.")
    dtype: str = shared.kept_dtype()
    embeddings: Path | None = shared.kept_in()
    root: Path | None = shared.images_root("Folder that holds the images.")
    model: str | None = shared.encoder_place()
    download_root: Path | None = shared.download_root()
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if (self.queries is None) != (self.out is None):
            raise UsageError("--queries and --out belong together: a file of queries, and one for their hits.")
        asked = self.query is not None or self.image is not None
        if asked == (self.queries is not None):
            raise UsageError(
                'say what to look for: words, as in clipret search CACHE "two dogs", --image or --queries.'
            )
        if self.min_score not in (None, AUTO):
            _cosine(self.min_score)

    @property
    def least(self) -> float | None:
        """The cosine of min_score; None: there is none, or it is to be calibrated."""
        return None if self.min_score in (None, AUTO) else _cosine(self.min_score)


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1:
        raise UsageError(f"--min-score is '{text}'; expected a number from -1 to 1, or auto.")
    return value


@documented
@dataclass(frozen=True)
class ServeConfig:
    """Settings of the web service."""

    cache: Path = setting(help="A finished cache of clipret extract.", positional=True)
    head: tuple[Path, ...] = setting(
        (), "Runs' folders, comma-separated; their heads stand beside zero-shot.", shown="zero-shot alone"
    )
    host: str = setting("127.0.0.1", "Address to listen on; another than this machine's own needs --token.")
    port: int = setting(8000, "Port to listen on; 0: a free one.", at_least=0, at_most=_MOST_PORT, swept=False)
    token: str | None = setting(None, "What clients have to know, 16 characters or more; with --host.")
    allow_host: tuple[str, ...] = setting(
        (), "Names that the service is called by, comma-separated, beside localhost and addresses.", shown="none"
    )
    cors: tuple[str, ...] = setting((), "Origins, comma-separated, whose pages may use the service.", shown="none")
    split: str = shared.gallery_split()
    originals: bool = setting(False, "Also serve the files of images as they are, with all that is in them.")
    marks: Path = setting(Path("marks.csv"), "Table that keeps what is marked as right; beside it what is wrong.")
    dtype: str = shared.kept_dtype()
    embeddings: Path | None = shared.kept_in()
    root: Path | None = shared.images_root("Folder that holds the images.")
    model: str | None = shared.encoder_place()
    download_root: Path | None = shared.download_root()
    device: str = shared.device()

    def __post_init__(self):
        check(self)
        if not _NAME.fullmatch(self.host):
            raise UsageError(f"--host is '{self.host}'; expected an address or a name.")
        if self.token is not None and not (len(self.token) >= 16 and self.token.isascii() and self.token.isprintable()):
            raise UsageError("--token has to have 16 characters or more of ASCII, as of: openssl rand -hex 16")
        if not self.local and self.token is None:
            raise UsageError(
                f"--host {self.host} lets other machines in; give --token SECRET too, as of: openssl rand -hex 16"
            )
        for name in self.allow_host:
            if not _NAME.fullmatch(name):
                raise UsageError(f"--allow-host is '{name}'; expected a name such as photos.example.org.")
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(f"--cors is '{origin}'; expected an origin such as https://photos.example.org.")

    @property
    def local(self) -> bool:
        """Whether the host is this machine for itself."""
        return self.host in ("localhost", "[::1]", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", self.host) is not None
