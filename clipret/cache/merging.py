"""Caches of different images -> one cache: a collection that grows. The function behind `clipret merge`."""

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clipret.annotations import concatenate
from clipret.cache import SIDES, CacheContents, FeatureCache, assemble, cache_blocks, locked, require_same, smallest
from clipret.cache.image_keys import content_keys
from clipret.cache.tap_merging import merged_losses, merged_taps, tap_differences, token_blocks
from clipret.config import SPLITS, MergeConfig, to_command
from clipret.errors import CacheError, CacheMismatchError
from clipret.machine.progress import Progress, ProgressCallback, silent

# Inputs that may differ between the caches.
_OWN_INPUTS = {"dataset", "annotation_sha256", "columns_sha256"}
_SHOWN = 5


def merge(config: MergeConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Merge complete caches of different images whose features were made with the same settings.

    on_progress  called every few thousand rows, with phase "image rows", then "text rows"; of caches with tokens then
                 with "tokens of image rows", "tokens of text rows"

    Rows keep the order of the caches. Features, tokens, reasons and checksums are copied, after the checksums are
    compared.
    `about` lists each cache and how it was made under merged_from. Caption ids are kept, so they must be unique among
    caches of the same data set; caches of different data sets may share ids. Everything but features and tokens is held
    in memory.

    Two images are the same if the bytes of their files are equal. An image that two caches hold in the same split is
    kept twice, with a remark.

    Returns cache (path), fingerprint, images, captions, problems (images without a feature), caches (paths), remarks
    (of this merge) and seconds. An existing complete cache of the same inputs is left unchanged. If the process is
    killed, no partial file is left and the same call starts again.

    Raises CacheError when two caches have images of the same id, or the same image in different splits, when a row does
    not match its checksum or the cache cannot be written, CacheMismatchError when the settings of the caches differ, or
    an existing cache at that path was made from other inputs, CacheIncompleteError when a cache has pending rows.
    """
    started = time.perf_counter()
    if config.out.resolve() in {path.resolve() for path in config.caches}:
        raise CacheError(f"{config.out} is one of the caches to merge; give another --out.")
    caches = [FeatureCache(path) for path in config.caches]
    for other in caches[1:]:
        _require_alike(caches[0], other)
    _require_different(caches)
    remarks = _copies(caches)
    contents = _contents(config, caches, remarks=remarks)
    with locked(config.out):
        if config.out.exists():
            existing = FeatureCache(config.out)
            require_same(config.out, stored=existing.inputs, asked=contents.inputs)
        else:
            micro_batch = {side: smallest(cache.micro_batch[side] for cache in caches) for side in SIDES}
            blocks = _pieces(caches, SIDES, read=cache_blocks, what="{} rows", on_progress=on_progress)
            words = {"read": token_blocks, "what": "tokens of {} rows", "on_progress": on_progress}
            tokens = _pieces(caches, tuple(contents.taps), **words)
            assemble(config.out, contents, blocks=blocks, micro_batch=micro_batch, tokens=tokens)
    return {
        "cache": str(config.out),
        "fingerprint": contents.fingerprint,
        "images": contents.counts["image"],
        "captions": contents.counts["text"],
        "problems": sum(len(cache.problems) for cache in caches),
        "caches": [str(path) for path in config.caches],
        "remarks": remarks,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _require_alike(first: FeatureCache, other: FeatureCache) -> None:
    names = sorted({*first.inputs, *other.inputs} - _OWN_INPUTS)
    differences = [
        f"{name}: {first.inputs.get(name)!r} and {other.inputs.get(name)!r}"
        for name in names
        if first.inputs.get(name) != other.inputs.get(name)
    ]
    same_heads = first.projections.keys() == other.projections.keys() and all(
        np.array_equal(values, other.projections[name]) for name, values in first.projections.items()
    )
    if not same_heads:
        differences.append("the encoder's projections")
    # Of caches that say the same of their tokens.
    differences = differences or tap_differences(first, other)
    if differences:
        raise CacheMismatchError(
            f"{first.path} and {other.path} were not made in the same way ({'; '.join(differences)}); extract one of "
            f"them again with the settings of the other."
        )


def _require_different(caches: list[FeatureCache]) -> None:
    """Raise CacheError when an image's id is in two caches, or a caption's in two of the same data set."""
    _require_other_files(caches)
    _require_once("images", [(None, cache.path, cache.image_ids) for cache in caches])
    _require_once("captions", [(cache.inputs["dataset"], cache.path, cache.caption_ids) for cache in caches])


def _require_other_files(caches: list[FeatureCache]) -> None:
    """Raise CacheError when two caches use the same id for files that are known to differ."""
    holders: dict[str, tuple[Path, int]] = {}
    for cache in caches:
        pairs = list(zip(cache.image_ids, content_keys(cache).tolist(), strict=True))
        again = [name for name, key in pairs if name in holders and key and holders[name][1] not in (0, key)]
        if again:
            raise CacheError(
                f"{len(again):,} images of {cache.path} have the ids of other files in {holders[again[0]][0]}: "
                f"{_shown(again)}; an id stands for one image in a cache. Give one of the tables other ids, such as "
                f"by --columns id=COLUMN, and extract it again."
            )
        holders |= {name: (cache.path, key) for name, key in pairs}


def _copies(caches: list[FeatureCache]) -> list[str]:
    """A remark for each cache with images that an earlier one also holds (files equal byte for byte).

    Raises CacheError when the splits of such an image differ.
    """
    remarks, keys = [], [content_keys(cache) for cache in caches]
    for place, cache in enumerate(caches[1:], start=1):
        for other, others in zip(caches[:place], keys[:place], strict=True):
            elsewhere, together = np.zeros(len(keys[place]), dtype=bool), np.zeros(len(keys[place]), dtype=bool)
            for split in range(len(SPLITS)):
                there = np.isin(keys[place], others[(other.image_splits == split) & (others != 0)])
                here = cache.image_splits == split
                together |= there & here
                elsewhere |= there & ~here
            if elsewhere.any():
                raise _in_other_splits(cache, other, rows=np.flatnonzero(elsewhere), keys=(keys[place], others))
            if together.any():
                names = [cache.image_files[row] for row in np.flatnonzero(together)]
                remarks.append(
                    f"{len(names):,} images of {cache.path} are in {other.path} too, byte for byte, in the same split: "
                    f"{_shown(names)}"
                )
    return remarks


def _in_other_splits(
    cache: FeatureCache, other: FeatureCache, *, rows: np.ndarray, keys: tuple[np.ndarray, np.ndarray]
) -> CacheError:
    names = []
    for row in rows[: _SHOWN + 1]:
        split = cache.image_splits[row]
        (there, *_) = np.flatnonzero((keys[1] == keys[0][row]) & (other.image_splits != split))
        names.append(
            f"{cache.image_files[row]} ({SPLITS[split]}) is {other.image_files[there]} "
            f"({SPLITS[other.image_splits[there]]})"
        )
    return CacheError(
        f"{len(rows):,} images of {cache.path} are in {other.path} too, byte for byte, in another split: "
        f"{_shown(names)}; heads would be measured on images that they were trained on. Leave them out of one of the "
        f"data sets, or give them one split, and extract it again."
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _require_once(what: str, columns: list[tuple[str | None, Path, list[str]]]) -> None:
    """columns: for each cache the scope of its ids, its path, and the ids, which may repeat within a cache."""
    holders: dict[tuple[str | None, str], Path] = {}
    for scope, path, ids in columns:
        again = [name for name in dict.fromkeys(ids) if (scope, name) in holders]
        if again:
            raise CacheError(
                f"{len(again):,} {what} of {path} are in {holders[scope, again[0]]} too, by their ids: "
                f"{_shown(again)}; expected caches of different {what}."
            )
        holders |= {(scope, name): path for name in ids}


def _contents(config: MergeConfig, caches: list[FeatureCache], *, remarks: list[str]) -> CacheContents:
    first, annotations = caches[0], concatenate([cache.annotations for cache in caches])
    datasets = dict.fromkeys(name for cache in caches for name in cache.inputs["dataset"].split("+"))
    own = {"dataset": "+".join(datasets), "annotation_sha256": annotations.annotation_sha256}
    return CacheContents(
        **annotations.columns,
        projections=first.projections,
        widths={side: first.width(side) for side in SIDES},
        dtype=first.dtype.name,
        inputs={name: value for name, value in (first.inputs | own).items() if name != "columns_sha256"},
        about=_about(config, caches, remarks=remarks),
        notes=first.notes,
        taps=merged_taps(caches),
        blocks=first.blocks,
    )


def _about(config: MergeConfig, caches: list[FeatureCache], *, remarks: list[str]) -> dict:
    """`about` of the merged cache: that of the first cache, with the fields that differ between caches combined."""

    def different(name: str) -> list[str]:
        return list(dict.fromkeys(str(cache.about[name]) for cache in caches if name in cache.about))

    tap_loss = {"tap_loss": merged_losses(caches)} if caches[0].taps else {}
    return (
        caches[0].about
        | tap_loss
        | {
            "batch_size": min(cache.about["batch_size"] for cache in caches),
            "root": ", ".join(different("root")),
            "split_rule": "; ".join(different("split_rule")),
            "remarks": list(
                dict.fromkeys([*(remark for cache in caches for remark in cache.about["remarks"]), *remarks])
            ),
            "command": to_command("merge", config),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "merged_from": [{"path": str(cache.path), "fingerprint": cache.fingerprint} for cache in caches],
        }
    )


def _pieces(
    caches: list[FeatureCache], sides: tuple[str, ...], *, read: Callable, what: str, on_progress: ProgressCallback
) -> Iterator:
    """The rows of all caches in order, or their tokens, as cache.assemble takes them.

    read  (cache, side) -> rows, and what they have, in pieces
    """
    for side in sides:
        start, total = 0, sum(len(cache.checksums[side]) for cache in caches)
        for cache in caches:
            for rows, stored in read(cache, side):
                yield side, range(start + rows.start, start + rows.stop), stored
                on_progress(Progress(what.format(side), start + rows.stop, total))
            start += len(cache.checksums[side])
