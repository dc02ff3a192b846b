"""Stage 2: features.h5 and a head -> metrics.json. No image, no CLIP, no GPU needed."""

from dataclasses import dataclass
from pathlib import Path

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import EvalConfig
from clipret.devices import choose_device
from clipret.errors import CacheMismatchError, RunError, UsageError
from clipret.heads import LinearHead, load_head
from clipret.measurement import Gallery
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols import split_protocol


def evaluate(config: EvalConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Measure R@K, mAP@K and the median rank of a split, both directions, zero-shot beside trained.

    on_progress  called after each head, with phase "heads"

    Returns what metrics.json holds: format, protocol (name, split, counts, tie rule, mAP's divisor), cache, run (None
    for zero-shot alone), and results: {"zero-shot": {"t2i": {...}, "i2t": {...}}, "trained": {...}} as fractions. It is
    written to config.out, or into the run's folder when there is one.

    Raises RunError, CacheError, HeadError or UsageError.
    """
    device = choose_device(config.device)
    source = _source(config)
    cache = FeatureCache(source.cache)
    if source.fingerprint not in (None, cache.fingerprint):
        raise CacheMismatchError(
            f"{cache.path} is not the cache that {source.run} was trained on: its fingerprint is "
            f"{cache.fingerprint[:12]}, the run's {source.fingerprint[:12]}; give the one to measure with --cache."
        )
    heads = {"zero-shot": LinearHead(cache.projections)}
    if source.head:
        weights = cache.inputs["weights_sha256"]
        heads["trained"] = load_head(source.head, projections=cache.projections, weights_sha256=weights)
    protocol = split_protocol(cache, split=config.split)
    gallery = Gallery.read(cache, protocol)
    results = {}
    for name, head in heads.items():
        results[name] = gallery.measure(head.to(device), device=device, k=config.k, block=config.block)
        on_progress(Progress("heads", len(results), len(heads)))
    report = {
        "format": runs.FORMAT,
        "protocol": protocol.describe(),
        "cache": {
            "path": str(source.cache),
            "fingerprint": cache.fingerprint,
            "model": cache.about["model"],
            "dataset": cache.inputs["dataset"],
        },
        "run": str(source.run) if source.run else None,
        "head": str(source.head) if source.head else None,
        "results": results,
    }
    out = config.out or (source.run / runs.METRICS if source.run else None)
    if out:
        _write(out, report)
    return report


@dataclass(frozen=True)
class _Source:
    """A cache, and perhaps a head, its run, and the fingerprint that the run expects of the cache."""

    cache: Path
    head: Path | None = None
    run: Path | None = None
    fingerprint: str | None = None


def _source(config: EvalConfig) -> _Source:
    if config.zero_shot:
        return _Source(config.cache)
    head = config.head or runs.newest_run(config.runs_dir)
    if head.is_dir():
        head = head / runs.HEAD
    run = head.parent if (head.parent / runs.CONFIG).exists() else None
    if config.cache:
        return _Source(config.cache, head, run)
    if run is None:
        raise UsageError(f"{head} is not in a run's folder, so its cache is not known; give it with --cache FILE.")
    trained_on = runs.read_config(run)["cache"]
    return _Source(Path(trained_on["path"]), head, run, trained_on["fingerprint"])


def _write(out: Path, report: dict) -> None:
    try:
        runs.write_json(out, report)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}; give another place with --out.") from None
