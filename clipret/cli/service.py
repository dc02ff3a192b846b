"""The commands that answer queries: search and serve."""

import typer

from clipret.cli import options
from clipret.cli.running import complain, run, show
from clipret.config import SearchConfig, ServeConfig, to_command
from clipret.exports import INDEXES
from clipret.reporting.search import queries_summary, search_sheet

_INDEX_HELP = f"Build, and search by, an index, for tens of millions of images: {', '.join(INDEXES)}."


@options.from_settings(SearchConfig, helps={"index": _INDEX_HELP})
def search(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 3: type words, get pictures: the images, or captions, of a cache that are nearest to a query.

    \b
    clipret search data/emoji.h5 "a red heart" --head runs/0001-margin-linear
    clipret search data/emoji.h5 "2:a red heart + a face - a cat" -k 5
    clipret search data/emoji.h5 --image photo.jpg --find captions
    clipret search data/emoji.h5 --queries queries.txt --out hits.csv
    """
    config = SearchConfig(**values)
    from clipret.service.stage import search as stage

    resume = f"go on with: {to_command('search', config)}"
    result = run(stage, config, quiet=quiet or as_json, on_interrupt=resume, batches=False)
    if config.queries:
        show(result, as_json=as_json, text=result["out"] if quiet else queries_summary(result))
    else:
        show(result, as_json=as_json, sheets=() if as_json else (search_sheet(result),))


@options.from_settings(ServeConfig)
def serve(values: dict, *, quiet: options.Quiet = False):
    """Stage 3: a web service with a page: type words, see pictures, zero-shot beside trained.

    Only this machine reaches it, unless --host and --token say otherwise. Ctrl-C ends it.

    \b
    clipret serve data/emoji.h5 --head runs/0001-margin-linear
    clipret serve data/coco.h5 --host 0.0.0.0 --token "$(openssl rand -hex 16)" --allow-host photos.example.org
    """
    config = ServeConfig(**values)
    from clipret.service.server import open_service

    again = f"start it again with: {to_command('serve', config)}"
    service = run(open_service, config, quiet=quiet, on_interrupt=again, batches=False)

    def ready() -> None:
        typer.echo(f"{service.url}  (Ctrl-C ends it; marks go to {service.marks})")

    service.run(log=complain, on_ready=ready)
