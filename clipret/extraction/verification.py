"""Rereading a cache and encoding a sample of it again: `clipret verify`."""

import time
from dataclasses import replace
from pathlib import Path

from clipret.cache import FeatureCache, cache_paths, check_rows, check_texts, open_features
from clipret.config import VerifyConfig
from clipret.errors import CacheDamagedError, CacheError
from clipret.extraction.sampling import AGAIN, check_entry, check_sample, rows_in_words
from clipret.machine.progress import ProgressCallback, silent


def verify(config: VerifyConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Reread a cache, finished or not, and report what is damaged. Changes nothing.

    on_progress  called with phase "image rows", "text rows", of a cache with tokens "tokens of image rows" and "tokens
                 of text rows", and for a sample "images encoded again" and "captions encoded again"

    Checks the structure, and the state, values and checksum of every row, tokens included; with config.sample, encodes
    that many images and captions again and compares features and tokens.

    Returns cache, fingerprint, complete, sound (whether nothing is damaged), verdict (a sentence), seconds, and checks,
    a list of name, rows (checked; None for the structure), faults (sentences) and bad_rows (all of them).

    Raises CacheError or CacheFormatError when the file is not a cache; BackboneError when the model cannot be loaded,
    UsageError when it is not the model of the cache.
    """
    started = time.perf_counter()
    paths = cache_paths(config.cache)
    if len(paths) > 1:
        verified = [verify(replace(config, cache=path), on_progress=on_progress) for path in paths]
        return _together(config.cache, verified) | {"seconds": _seconds_since(started)}
    try:
        cache = FeatureCache(config.cache, allow_incomplete=True)
        checks = [check_entry("structure", None, faults=check_texts(cache))]
    except CacheDamagedError as error:
        # With a damaged structure nothing else can be checked. The path is that of a shard if the cache refers to one.
        where = "" if error.path == config.cache else f"{error.path}: "
        checks = [check_entry("structure", None, faults=[where + fault for fault in error.faults])]
        return _result(config.cache, checks=checks, command=error.command) | {"seconds": _seconds_since(started)}
    damaged = {}
    for side, total in (("image", len(cache.image_states)), ("text", len(cache.text_states))):
        bad_rows = check_rows(cache, side, on_progress=on_progress)
        faults = [f"{name}: {rows_in_words(rows)}" for name, rows in bad_rows.items() if len(rows)]
        damaged[side] = sorted({int(row) for rows in bad_rows.values() for row in rows})
        checks.append(check_entry(f"{side} rows", total, faults=faults, bad_rows=damaged[side]))
    if config.sample:
        checks += check_sample(cache, config, bad_rows=damaged, on_progress=on_progress)
    result = _result(cache.path, checks=checks, command=cache.about["command"], cache=cache)
    return result | {"seconds": _seconds_since(started)}


def _together(path: Path, verified: list[dict]) -> dict:
    """The result of caches side by side, from that of each: whether all are sound, and whether they belong together."""
    checks = [{**check, "name": f"{one['cache']}: {check['name']}"} for one in verified for check in one["checks"]]
    bad, fingerprint = [one for one in verified if not one["sound"]], None
    if not bad:
        faults = []
        try:
            fingerprint = open_features(path, allow_incomplete=True).fingerprint
        except CacheError as error:
            faults = [str(error)]
        checks.append(check_entry("side by side", None, faults=faults))
    unfinished = [one["verdict"] for one in verified if not one["complete"]]
    verdict = " ".join(one["verdict"] for one in bad) or " ".join(unfinished) or f"{path} is sound."
    if not bad and checks[-1]["faults"]:
        verdict = checks[-1]["faults"][0]
    return {
        "cache": str(path),
        "fingerprint": fingerprint,
        "complete": not unfinished,
        "sound": not any(check["faults"] for check in checks),
        "verdict": verdict,
        "checks": checks,
    }


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _result(path: Path, *, checks: list[dict], command: str | None, cache: FeatureCache | None = None) -> dict:
    """cache: None if it cannot be opened."""
    faulty = [check["name"] for check in checks if check["faults"]]
    verdict = f"{path} is sound."
    if faulty:
        remedy = f" with: {command}" if command else "."
        verdict = f"{path} is damaged: {', '.join(faulty)}; delete it and extract again{remedy}"
        if cache is not None and cache.imported and all(name.endswith(AGAIN) for name in faulty):
            # What was imported is there as it was: the same import would give the same.
            verdict = (
                f"{path} holds what was imported, and this is not what the encoder gives for these files and captions: "
                f"{', '.join(faulty)}; look at --model, --root, and the order of the table's rows."
            )
    elif not cache.complete:
        verdict = f"{path} is sound but incomplete; complete it with: {command}"
    return {
        "cache": str(path),
        "fingerprint": cache and cache.fingerprint,
        "complete": cache is not None and cache.complete,
        "sound": not faulty,
        "verdict": verdict,
        "checks": checks,
    }
