"""Settings of stage 2: measuring a head."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import as_paths, at_least, one_of, within
from clipret.config.choices import DEVICES, PROTOCOLS, RUNS_DIR, SEED, SPLITS
from clipret.errors import UsageError

_MOST_ALPHAS = 101


@dataclass(frozen=True)
class EvalConfig:
    """Settings of stage 2, evaluation.

    cache      the features; None: the ones that the run was trained on
    head       a head file or a run's folder; None: the newest run below runs_dir, unless zero_shot
    zero_shot  evaluate CLIP's own projections alone
    runs_dir   where runs are kept
    wise_ft    also measure heads between CLIP's own (0) and the trained one (1), at these alphas
    protocol   names of protocols (protocols.py); none: the one that the data set is usually measured by
    split      the split that gives queries and gallery, for protocol `split`; None: test
    allow_leak measure also where the gallery holds images that the head was trained on
    k          the K of R@K and mAP@K
    out        where the metrics are written; None: metrics.json in the run's folder, if there is one
    block      queries scored at once; decides memory, not results
    device     auto: CUDA where there is one
    seed       nothing is drawn at random in evaluation; accepted as everywhere
    """

    cache: Path | None = None
    head: Path | None = None
    zero_shot: bool = False
    wise_ft: tuple[float, ...] = ()
    runs_dir: Path = RUNS_DIR
    protocol: tuple[str, ...] = ()
    split: str | None = None
    allow_leak: bool = False
    k: tuple[int, ...] = (1, 5, 10)
    out: Path | None = None
    block: int = 512
    device: str = "auto"
    seed: int = SEED

    def __post_init__(self):
        as_paths(self, "cache", "head", "runs_dir", "out")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))))
        if not self.k or min(self.k) < 1:
            given = ",".join(map(str, self.k)) or "nothing"
            raise UsageError(f"--k is {given}; expected whole numbers of at least 1, such as 1,5,10.")
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if self.zero_shot and not self.cache:
            raise UsageError("--zero-shot needs a cache; give it with --cache FILE.")
        self._check_alphas()
        object.__setattr__(self, "protocol", tuple(dict.fromkeys(self.protocol)))
        for name in self.protocol:
            one_of("protocol", name, allowed=PROTOCOLS)
        if self.split is not None:
            one_of("split", self.split, allowed=SPLITS)
            if self.protocol not in ((), ("split",)):
                raise UsageError(
                    f"--split {self.split} and --protocol {','.join(self.protocol)} contradict each other; "
                    f"every protocol but `split` has images of its own."
                )
        at_least("block", self.block, low=1)
        one_of("device", self.device, allowed=DEVICES)

    def _check_alphas(self) -> None:
        for alpha in self.wise_ft:
            within("wise-ft", alpha, low=0, high=1)
        object.__setattr__(self, "wise_ft", tuple(sorted(set(self.wise_ft))))
        if len(self.wise_ft) > _MOST_ALPHAS:
            raise UsageError(f"--wise-ft has {len(self.wise_ft):,} values; expected at most {_MOST_ALPHAS}.")
        if self.wise_ft and self.zero_shot:
            raise UsageError(
                "--zero-shot and --wise-ft contradict each other; --wise-ft needs a trained head to go towards."
            )
