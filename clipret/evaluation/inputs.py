"""Inputs of evaluation commands: resolves settings to a cache, a head and its run, protocols; checks leakage."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipret import runs
from clipret.cache import FeatureCache, cache_paths, open_features
from clipret.cache.image_keys import image_keys
from clipret.config import FailuresConfig, ReproduceConfig
from clipret.config.choices import RUNS_DIR
from clipret.config.evaluation import EvalConfig, wise_ft_name
from clipret.errors import CacheError, CacheMismatchError, LeakageError, RunError, UsageError
from clipret.heads.base import Head
from clipret.heads.files import load_head, load_trained_on, needs_projections
from clipret.heads.interpolation import wise_ft
from clipret.heads.linear import LinearHead
from clipret.machine.devices import choose_device
from clipret.machine.own_code import label
from clipret.protocols.bounds import best_reachable
from clipret.protocols.languages import by_language
from clipret.protocols.leakage import check_images, is_in_train
from clipret.protocols.protocol import Protocol, default_protocol, make_protocol, protocol_digest, split_protocol
from clipret.retrieval.baseline import baseline_name, baseline_projections
from clipret.retrieval.inputs import require_inputs
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import Trained, head_digest


@dataclass(frozen=True)
class Source:
    """Paths of a cache and optionally a head and its run.

    cache        path of the features
    head         path of the head's file; None: the baseline only
    run          the run's folder; None: the head belongs to no run
    fingerprint  of the cache that the run was trained on; None: any cache is accepted
    """

    cache: Path
    head: Path | None = None
    run: Path | None = None
    fingerprint: str | None = None


# Ranks by a protocol: name of head -> direction -> those of each gallery.
Ranking = Callable[[Protocol], dict[str, dict[str, tuple[Ranks, ...]]]]


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a command.

    device  device for ranking
    alphas  WiSE-FT interpolations between the baseline (0) and the trained one (1)
    """

    source: Source
    cache: FeatureCache
    device: str
    alphas: tuple[float, ...] = ()

    @cached_property
    def heads(self) -> dict[str, Head]:
        """{"zero-shot": ..., "trained": ...}, and between them a "wise-ft ALPHA" for each alpha; on the CPU.

        The first is the cache's baseline, which may be "closed-form" instead; without a trained head it is all.

        Raises HeadError when the head's file cannot be used with this cache.
        """
        projections, head = baseline_projections(self.cache), self.source.head
        heads = {baseline_name(self.cache): LinearHead(projections)}
        if head:
            trained = load_head(head, projections=projections, weights_sha256=self.cache.inputs["weights_sha256"])
            require_inputs(self.cache, trained.inputs)
            for alpha in self.alphas:
                heads[wise_ft_name(alpha)] = wise_ft(trained, projections=projections, alpha=alpha)
            heads["trained"] = trained
        return heads


def open_inputs(config: EvalConfig | FailuresConfig | ReproduceConfig) -> Inputs:
    """Open the cache, head and device of these settings. The head's file is read at first use.

    Without a head, eval and failures take the newest run, and reproduce measures only the baseline.

    Raises as choose_device, find_source and open_cache do.
    """
    device = choose_device(config.device)
    source = find_source(
        cache=config.cache,
        head=config.head,
        zero_shot=config.head is None if isinstance(config, ReproduceConfig) else config.zero_shot,
        runs_dir=getattr(config, "runs_dir", RUNS_DIR),
    )
    return Inputs(source, open_cache(source), device, getattr(config, "wise_ft", ()))


def find_source(*, cache: Path | None, head: Path | None, zero_shot: bool, runs_dir: Path) -> Source:
    """The source for these settings of EvalConfig.

    A given cache is accepted whatever the run was trained on. Otherwise the run's cache is used, and its fingerprint
    must be unchanged.

    Raises RunError when there is no run or its config cannot be read, and when a head belongs to no run and no cache is
    given UsageError, or HeadError where it is no head.
    """
    if zero_shot:
        return Source(cache)
    head, run = find_head(head or runs.newest_run(runs_dir))
    if cache:
        return Source(cache, head, run)
    if run is None:
        # Raises HeadError when it is no head at all.
        needs_projections(head)
        raise UsageError(f"{head} is not in a run's folder, so its cache is not known; give it with --cache FILE.")
    trained_on = runs.read_config(run)["cache"]
    return Source(Path(trained_on["path"]), head, run, trained_on["fingerprint"])


def find_head(head: Path) -> tuple[Path, Path | None]:
    """The file of a head by its path or its run's folder, and that folder; None: it belongs to no run.

    Raises RunError when there is none.
    """
    if head.is_dir():
        head = head / runs.HEAD
    run = head.parent if (head.parent / runs.CONFIG).exists() else None
    if not head.exists():
        raise RunError(_no_head(head))
    return head, run


def _no_head(head: Path) -> str:
    folder = head.parent
    swept = sorted(folder.glob(f"*/{runs.HEAD}")) if (folder / runs.SWEEP[0]).exists() else []
    if swept:
        return f"{folder} is a sweep, not a run; give one of its runs, such as --head {swept[0].parent}"
    if (folder / runs.CONFIG).exists():
        return (
            f"{folder} has no head: training stopped before the first head was saved, or the sweep deleted it "
            f"(--keep-heads)."
        )
    return f"there is no head at {head}; expected a {runs.HEAD} written by clipret train."


def open_cache(source: Source) -> FeatureCache:
    """Open the source's cache. Raises CacheError, and CacheMismatchError when the run was trained on another cache."""
    missing = [path for path in cache_paths(source.cache) if not path.exists()]
    if source.fingerprint is not None and missing:
        raise CacheError(
            f"there is no cache at {missing[0]}, where it was when {source.run} was trained; give its path with "
            f"--cache FILE."
        )
    cache = open_features(source.cache)
    cache.require_pairs()
    if source.fingerprint not in (None, cache.fingerprint):
        raise CacheMismatchError(
            f"{cache.path} is not the cache that {source.run} was trained on: its fingerprint is "
            f"{cache.fingerprint[:12]}, the run's {source.fingerprint[:12]}; give the one to measure with --cache."
        )
    return cache


def describe_source(source: Source, cache: FeatureCache) -> dict:
    """cache, run, finished (None without a run) and head, as in metrics.json."""
    return {
        "cache": {
            "path": str(source.cache),
            "fingerprint": cache.fingerprint,
            "model": cache.about["model"],
            "dataset": cache.inputs["dataset"],
        },
        "run": str(source.run) if source.run else None,
        "finished": _is_finished(source.run) if source.run else None,
        "head": str(source.head) if source.head else None,
    }


def describe_trained(source: Source) -> Trained | None:
    """The description of the head that is stored with its ranks; None without a trained head. Raises RunError."""
    if source.head is None:
        return None
    sha256 = head_digest(source.head)
    if source.run is None:
        return Trained(str(source.head), sha256)
    record = runs.read_config(source.run)
    # User-defined code is identified by its content, not by its path.
    own = {
        what: f"{label(str(record['config'].get(what)))}@{code['sha256'][:12]}"
        for what, code in record.get("code", {}).items()
    }
    # A soup is of several settings or seeds, and no other seed of any of them.
    config = None if "soup" in record else record["config"] | own
    trained_on = record["cache"]["fingerprint"]
    return Trained(str(source.head), sha256, str(source.run), config, trained_on, _is_finished(source.run))


def _is_finished(run: Path) -> bool:
    return (run / runs.RESULT).exists()


def describe_protocol(
    cache: FeatureCache, protocol: Protocol, *, precision: str, k: tuple[int, ...] = EvalConfig.k
) -> dict:
    """The protocol as in metrics.json, with digest, precision of the embeddings and the best reachable metrics at k."""
    return {
        **protocol.describe(),
        "precision": precision,
        "digest": protocol_digest(cache, protocol),
        "best_reachable": best_reachable(cache, protocol, k=k),
    }


def choose_protocols(
    cache: FeatureCache, *, names: tuple[str, ...], split: str | None, languages: tuple[str, ...] | None = None
) -> list[Protocol]:
    """The protocols of these names, on `split` if given. Without names: protocol `split` if a split is given, else the
    default of the data set.

    languages  those to measure in, each by itself; (): all that the captions say; None: all captions together

    Raises UsageError when the cache does not hold a protocol's images.
    """
    if split is not None:
        protocols = [split_protocol(cache, split=split, name=name) for name in names or ("split",)]
    else:
        protocols = [make_protocol(cache, name) for name in names or (default_protocol(cache),)]
    if languages is None:
        return protocols
    return [part for protocol in protocols for part in by_language(cache, protocol, languages=languages)]


def check_leakage(cache: FeatureCache, protocol: Protocol, *, source: Source, allowed: bool) -> dict | None:
    """Check how many of the protocol's images the head was trained on; None without a trained head.

    Returns as leakage.check_images. Raises LeakageError when there are any, unless allowed.
    """
    if source.head is None:
        return None
    leakage = check_images(image_keys(cache, protocol.image_rows), load_trained_on(source.head))
    if leakage["trained_on"] and not allowed:
        remedy = "Measure on images held out from it"
        if is_in_train(cache, protocol):
            remedy = (
                f"The train split has images of {protocol.split}: train again with --drop-cross-split-duplicates, "
                f"which leaves them out"
            )
        raise LeakageError(
            f"{leakage['trained_on']:,} of the {leakage['images']:,} {protocol.split} images were trained on by "
            f"{source.run or source.head}: figures on them say nothing about new images. {remedy}, or see the figures "
            f"all the same with --allow-leak."
        )
    return leakage
