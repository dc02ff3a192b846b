"""What a training shows in a notebook; in a terminal it is a sentence (summaries.py)."""

from clipret.metrics import RSUM
from clipret.reporting.figures import figure
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_BASELINES = {"zero_shot_val_rsum": "zero-shot", "closed_form_val_rsum": "closed-form"}


def training_sheets(result: dict) -> tuple[Sheet, ...]:
    """What train returned."""
    kept = f"kept: epoch {result['kept_epoch']} of {result['epochs']}"
    figures = [(f"{name}, val rsum", result.get(key)) for key, name in _BASELINES.items()]
    figures.append((f"{kept}, val rsum", result["val_rsum"]))
    rows = [(name, figure(RSUM, value)) for name, value in figures if value is not None]
    notes = [*result["remarks"]]
    if result["val_rsum"] is None:
        notes.append(f"{kept}: the cache has no val split to choose on")
    work = [
        ("images of train", Cell(result["train_images"], ",")),
        ("steps", Cell(result["steps"], ",")),
        ("seconds", Cell(result["seconds"], ".1f")),
    ]
    blocks = tuple(tuple(block) for block in (rows, work) if block)
    return (Sheet(result["run"], (LABEL, Column()), blocks, notes=tuple(notes)),)
