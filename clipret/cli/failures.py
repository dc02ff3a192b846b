"""The command of stage 2 that looks at what went wrong: errors."""

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config.failures import FailuresConfig
from clipret.reporting.failures import failures_summary, failures_tables


@options.from_settings(FailuresConfig)
def errors(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 2: which queries fail and what comes up instead, what changed against zero-shot, hubs, breakdowns.

    \b
    clipret errors
    clipret errors --head runs/0001-margin-linear --split val --queries 20
    clipret errors --zero-shot --cache data/coco.h5 --json
    """
    config = FailuresConfig(**values)
    from clipret.evaluation.failures import find_failures

    report = run(find_failures, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    show(report, as_json=as_json, tables=failures_tables(report), text=None if quiet else failures_summary(report))
