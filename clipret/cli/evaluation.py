"""The command of stage 2 that measures: eval."""

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config import EvalConfig
from clipret.reporting import SECTIONS
from clipret.reporting.summaries import use_of_run
from clipret.retrieval.scorings import SCORINGS

_SCORINGS = ", ".join(f"{name} ({row.help})" for name, row in SCORINGS.items())
_HELPS = {"scoring": f"Also measure with a correction for hubs, beside cosine: {_SCORINGS}."}


@options.from_settings(EvalConfig, helps=_HELPS)
def evaluate(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 2: measure R@K, mAP@K, MRR and others, zero-shot (or closed-form) beside trained, with intervals.

    \b
    clipret eval
    clipret eval --head runs/0001-margin-linear --split val --json
    clipret eval --zero-shot --cache data/coco.h5
    clipret eval --protocol coco-karpathy-5k,coco-karpathy-1k
    clipret eval --zero-shot --cache data/xm3600.h5 --language de,fr
    clipret eval --wise-ft 0,0.1,...,1 --split val
    clipret eval --scoring nnn
    clipret eval --metrics R@1,nDCG@10,mAP@R --per-query ranks.parquet
    """
    config = EvalConfig(**values)
    from clipret.evaluation.stage import evaluate as stage

    report = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    lines = [f"run {report['run']}, cache {report['cache']['path']}"] if report["run"] else []
    lines += [f"every query is in {config.per_query}"] if config.per_query else []
    lines += [f"Note: {remark}." for remark in report.get("remarks", ())]
    lines += ["Note: failures, reproduce, embed and export are by cosine."] if "scoring" in report else []
    lines += use_of_run(report)
    sheets = SECTIONS["evaluate"](report, names=config.columns)
    show(report, as_json=as_json, sheets=sheets, text=None if quiet else "\n".join(lines))
