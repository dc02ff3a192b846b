"""What an export starts from: a head, its cache, and the encoder in front of it."""

from dataclasses import dataclass
from pathlib import Path

from clipret.cache import FeatureCache
from clipret.config import ExportConfig
from clipret.evaluation.inputs import Source as Places
from clipret.evaluation.inputs import find_source, open_cache
from clipret.exports.encoder import CacheEncoder, encoder_of, require_one_encoder
from clipret.exports.targets.target import Source
from clipret.heads.base import Head
from clipret.heads.files import load_head, load_scalars
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.inputs import require_inputs


@dataclass(frozen=True)
class Opened:
    """A head to export.

    places   of the cache, the head and its run
    head     as it was trained, for what the cache has
    encoder  with the blocks of the head; None: the target takes none
    source   what the target writes
    """

    places: Places
    cache: FeatureCache
    head: Head
    encoder: CacheEncoder | None
    source: Source


def open_source(config: ExportConfig, *, encoder: bool) -> Opened:
    """Open head and cache, and, if asked to, load the encoder, in float32 on the CPU.

    Raises RunError, CacheError, CacheMismatchError, HeadError, BackboneError, ExportError and UsageError.
    """
    places = find_source(cache=config.cache, head=config.run, zero_shot=False, runs_dir=Path())
    cache = open_cache(places)
    require_one_encoder(cache)
    projections = baseline_projections(cache)
    head = load_head(places.head, projections=projections, weights_sha256=cache.inputs["weights_sha256"])
    require_inputs(cache, head.inputs)
    loaded, exported = None, head
    if encoder:
        loaded = encoder_of(cache, model=config.model, precision="fp32", download_root=config.download_root)
        loaded, exported = loaded.with_blocks_of(head), head.behind_blocks()
    scalars = load_scalars(places.head)
    source = Source(
        exported,
        places.head,
        loaded and loaded.backbone,
        encoder=loaded,
        log_scale=scalars.get("log_scale"),
        bias=scalars.get("bias"),
    )
    return Opened(places, cache, head, loaded, source)
