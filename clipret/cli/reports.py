"""The commands that write pages: report and look."""

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import LookConfig, ReportConfig
from clipret.reporting.summaries import look_summary, report_summary


@options.from_settings(ReportConfig)
def report(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 2: a page that shows what a run gained and lost, what fails and why, with the pictures.

    One HTML file: no network, no script; it can be sent, read on a phone and printed.

    \b
    clipret report runs/0001-margin-linear
    clipret report runs/0001-margin-linear runs/0002-infonce-linear --out both.html
    """
    config = ReportConfig(**values)
    from clipret.reporting.pages.stage import report as stage

    result = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written", batches=False)
    show(result, as_json=as_json, text=result["out"] if quiet else report_summary(result))


@options.from_settings(LookConfig)
def look(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Look at the data of a cache before any training: leaks between splits, doubtful labels, outliers, a map.

    \b
    clipret look data/emoji.h5
    clipret look data/photos.h5 --leaks leaks.csv --out photos.html
    """
    config = LookConfig(**values)
    from clipret.reporting.pages.look import look as stage

    result = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written", batches=False)
    show(result, as_json=as_json, text=result["out"] if quiet else look_summary(result))
