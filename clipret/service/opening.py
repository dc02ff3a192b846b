"""Settings -> a cache, its heads, and the embeddings of its gallery, ready to be searched."""

from collections.abc import Sequence
from pathlib import Path

from clipret.cache import FeatureCache, open_features
from clipret.config import SearchConfig, ServeConfig
from clipret.errors import UsageError
from clipret.evaluation.inputs import Source, find_head
from clipret.exports.encoder import require_encoder
from clipret.exports.head import open_head
from clipret.exports.model import open_models
from clipret.machine.devices import choose_device
from clipret.machine.progress import ProgressCallback
from clipret.retrieval.baseline import baseline_name
from clipret.service.kept import open_kept
from clipret.service.searching import Searcher, SearchHead


def open_searcher(
    config: SearchConfig | ServeConfig,
    heads: Sequence[Path | None],
    *,
    split: str,
    index: str | None = None,
    on_progress: ProgressCallback,
) -> tuple[Searcher, dict[str, dict]]:
    """The searcher of a cache by these heads, and name of head -> what embed returned of its gallery.

    heads  runs' folders or files; None: the cache's own

    The encoder is loaded when something is first encoded. Raises as open_models and open_kept do, and UsageError for
    two heads of one name.
    """
    device = choose_device(config.device)
    cache = open_features(config.cache)
    cache.require_pairs()
    require_encoder(cache)
    sources = [_source(config.cache, head) for head in heads]
    models = open_models(sources, model=config.model, device=device, download_root=config.download_root)
    searched, abouts = [], {}
    for source, model in zip(sources, models, strict=True):
        name = _name(cache, source)
        if name in abouts:
            raise UsageError(f"there are two heads called {name}; give each once, or rename a run's folder.")
        settings = {"split": split, "dtype": config.dtype, "folder": config.embeddings, "index": index}
        kept, abouts[name] = open_kept(cache, source.head, device=device, on_progress=on_progress, **settings)
        trained = open_head(source)[1]
        trained.head.to(device)
        searched.append(SearchHead(name, model, trained, kept))
    return Searcher(cache, searched, split=split), abouts


def _source(cache: Path, head: Path | None) -> Source:
    return Source(cache) if head is None else Source(cache, *find_head(head))


def _name(cache: FeatureCache, source: Source) -> str:
    """What results call a head: the run's folder, the file, or the baseline."""
    if source.head is None:
        return baseline_name(cache)
    return source.run.resolve().name if source.run else source.head.name
