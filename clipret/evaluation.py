"""Stage 2: features.h5 and a head -> metrics.json. No image, no CLIP, no GPU needed."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import EvalConfig
from clipret.devices import choose_device
from clipret.errors import CacheMismatchError, LeakageError, RunError, UsageError
from clipret.heads import Head, LinearHead, load_head, wise_ft
from clipret.leakage import count_trained_on, image_digests
from clipret.measurement import Gallery
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols import Protocol, default_protocol, make_protocol, split_protocol


def evaluate(config: EvalConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Measure R@K, mAP@K and the median rank by one or more protocols, both directions, zero-shot beside trained.

    on_progress  called after each protocol, with phase "protocols"

    Returns what metrics.json holds: format, cache, run and head (None for zero-shot alone), and of the first protocol
    protocol (name, split, counts, tie rule, mAP's divisor, remarks), leakage (None for zero-shot alone; else checked
    and trained_on, the number of its images that the head was trained on) and results: {"zero-shot": {"t2i": {...},
    "i2t": {...}}, "trained": {...}} as fractions, and between them "wise-ft ALPHA" for each of config.wise_ft. Of
    further protocols, the same three in the list `also`. It is written to config.out, or into the run's folder when
    there is one.

    Raises RunError, CacheError, HeadError, UsageError, or LeakageError when a gallery holds images that the head was
    trained on and config.allow_leak is not set.
    """
    device = choose_device(config.device)
    source = _source(config)
    cache = FeatureCache(source.cache)
    if source.fingerprint not in (None, cache.fingerprint):
        raise CacheMismatchError(
            f"{cache.path} is not the cache that {source.run} was trained on: its fingerprint is "
            f"{cache.fingerprint[:12]}, the run's {source.fingerprint[:12]}; give the one to measure with --cache."
        )
    heads = _heads(source, cache, alphas=config.wise_ft)
    protocols = _protocols(config, cache)
    # All before the first measurement: a refusal must not cost the time of the others.
    leaks = [_leakage(cache, protocol, source=source, allowed=config.allow_leak) for protocol in protocols]
    measured = []
    for protocol, leakage in zip(protocols, leaks, strict=True):
        results = _measure(cache, protocol, heads=heads, device=device, config=config)
        measured.append({"protocol": protocol.describe(), "leakage": leakage, "results": results})
        on_progress(Progress("protocols", len(measured), len(protocols)))
    report = {
        "format": runs.FORMAT,
        "cache": {
            "path": str(source.cache),
            "fingerprint": cache.fingerprint,
            "model": cache.about["model"],
            "dataset": cache.inputs["dataset"],
        },
        "run": str(source.run) if source.run else None,
        "head": str(source.head) if source.head else None,
        **measured[0],
        **({"also": measured[1:]} if len(measured) > 1 else {}),
    }
    out = config.out or (source.run / runs.METRICS if source.run else None)
    if out:
        _write(out, report)
    return report


def _heads(source: "_Source", cache: FeatureCache, *, alphas: tuple[float, ...]) -> dict[str, Head]:
    heads = {"zero-shot": LinearHead(cache.projections)}
    if source.head:
        weights = cache.inputs["weights_sha256"]
        trained = load_head(source.head, projections=cache.projections, weights_sha256=weights)
        for alpha in alphas:
            heads[f"wise-ft {alpha:.12g}"] = wise_ft(trained, projections=cache.projections, alpha=alpha)
        heads["trained"] = trained
    return heads


def _protocols(config: EvalConfig, cache: FeatureCache) -> list[Protocol]:
    if config.split is not None:
        return [split_protocol(cache, split=config.split)]
    return [make_protocol(cache, name) for name in config.protocol or (default_protocol(cache),)]


def _leakage(cache: FeatureCache, protocol: Protocol, *, source: "_Source", allowed: bool) -> dict | None:
    """How many of the protocol's images the head was trained on; None without a trained head."""
    if source.head is None:
        return None
    rows = protocol.image_rows
    count = count_trained_on(source.head.parent / runs.TRAINED_ON, image_digests(cache, rows))
    if count and not allowed:
        raise LeakageError(
            f"{count:,} of the {len(rows):,} {protocol.split} images were trained on by {source.run or source.head}: "
            f"figures on them say nothing of new images. Measure on images held out from it, or see the figures "
            f"all the same with --allow-leak."
        )
    return {"checked": count is not None, "trained_on": count, "images": len(rows)}


def _measure(cache: FeatureCache, protocol: Protocol, *, heads: dict, device: str, config: EvalConfig) -> dict:
    """Head's name -> direction -> metric, the mean over the protocol's galleries."""
    galleries, results = [Gallery.read(cache, fold) for fold in protocol.folds], {}
    for name, head in heads.items():
        head = head.to(device)
        found = [gallery.measure(head, device=device, k=config.k, block=config.block) for gallery in galleries]
        results[name] = {
            direction: {metric: fmean(result[direction][metric] for result in found) for metric in metrics}
            for direction, metrics in found[0].items()
        }
    return results


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
