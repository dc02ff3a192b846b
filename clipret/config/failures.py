"""Settings of the analysis of failures."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import shared
from clipret.config.evaluation import MOST_TOP, EvalConfig
from clipret.config.settings import check, documented, setting


@documented
@dataclass(frozen=True)
class FailuresConfig:
    """Settings of stage 2, failures: which queries fail, and what is retrieved instead."""

    cache: Path | None = setting(None, "Features to look at.", shown="the run's own")
    head: Path | None = setting(None, "A run's folder or a head.safetensors.", shown="the newest run")
    zero_shot: bool = setting(
        False, "Look at the encoder's own head alone, or the closed-form one; there is nothing to compare with then."
    )
    runs_dir: Path = shared.runs_dir()
    protocol: str | None = shared.one_protocol("the data set's")
    split: str | None = shared.measured_split()
    allow_leak: bool = setting(False, "Look also at images that the head was trained on.")
    queries: int = setting(10, "Queries, and hubs, that each list has at most.", at_least=1, at_most=1_000_000)
    top: int = setting(10, "A hub is an item in the top K of many queries; this is K.", at_least=1, at_most=MOST_TOP)
    out: Path | None = setting(None, "File to write the result to.", shown="failures.json of the run")
    block: int = shared.block()
    precision: str = shared.embedding_precision()
    device: str = shared.device()
    seed: int = shared.seed("Accepted as by every command; nothing is drawn at random here.")

    def __post_init__(self):
        check(self)
        # Settings that eval shares are checked by its config, for the same messages.
        EvalConfig(
            cache=self.cache,
            head=self.head,
            zero_shot=self.zero_shot,
            protocol=(self.protocol,) if self.protocol is not None else (),
            split=self.split,
        )
