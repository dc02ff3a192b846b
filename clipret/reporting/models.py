"""The output of `clipret models`: the families of encoders, and their models with published results."""

from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

# Column -> protocol, direction.
_FIGURES = {
    "COCO\nt2i": ("coco-karpathy-5k", "t2i"),
    "COCO\ni2t": ("coco-karpathy-5k", "i2t"),
    "Flickr\nt2i": ("flickr30k-karpathy-1k", "t2i"),
    "Flickr\ni2t": ("flickr30k-karpathy-1k", "i2t"),
}
_CUTS = (1, 5, 10)
_WIDTHS = ("image", "text", "embedding")


def models_sheets(result: dict) -> tuple[Sheet, ...]:
    """The result of catalogue.list_models: a table of families, and one of models."""
    return _families_sheet(result), _models_sheet(result)


def models_records(result: dict) -> tuple[Sheet, ...]:
    """The models as one table for programs, with all results and widths."""
    names = [f"{name} {direction} R@{cut}" for name, direction in _sides() for cut in _CUTS]
    columns = [Column("model", align="left"), Column("family", align="left"), Column("cached", align="left")]
    columns += [Column(name) for name in ("side", *_WIDTHS)]
    columns += [Column("parameters", unit="millions"), Column("operations", unit="billions")]
    columns += [Column(name, unit="percent") for name in names]
    rows = []
    for model in result["models"]:
        values = [model["name"], model["family"], model["cached"]]
        values += [model[name] for name in ("side", *_WIDTHS, "params", "flops")]
        values += [_value(model, place, metric=f"R@{cut}") for place in _FIGURES.values() for cut in _CUTS]
        rows.append(tuple(values))
    return (Sheet("", tuple(columns), (tuple(rows),)),)


def _sides() -> list[tuple[str, str]]:
    return [tuple(name.split("\n")) for name in _FIGURES]


def _families_sheet(result: dict) -> Sheet:
    columns = (
        Column("family", align="left"),
        Column("--model", align="left", wrap=True),
        Column("installed", align="left", wrap=True),
        Column("models"),
        Column("here"),
    )
    rows = []
    for family in result["families"]:
        counts = [Cell(family[key], ",") for key in ("models", "cached")]
        rows.append((family["name"], family["names"], _installed(family), *counts))
    folders = dict.fromkeys([*result["folders"].values(), "the package"])
    return Sheet("families", columns, (tuple(rows),), (f"here: weights are in {', '.join(folders)}",))


def _installed(family: dict) -> Cell:
    lines = [
        f"{package['name']} {package['version']}"
        if package["version"]
        else f"{package['name']}: pip install 'clipret[{package['extra']}]'"
        for package in family["packages"]
    ]
    return Cell("\n".join(lines) or "yes", emphasis="" if family["installed"] else "bold")


def _models_sheet(result: dict) -> Sheet:
    columns = [LABEL, *(Column(name, unit="percent") for name in _FIGURES)]
    columns += [Column("M\nparams", unit="millions"), Column("widths"), Column("here", align="left")]
    rows = []
    for model in result["models"]:
        figures = [_figure(_value(model, place, metric="R@1")) for place in _FIGURES.values()]
        params = "" if model["params"] is None else Cell(model["params"], ",.0f")
        rows.append((model["name"], *figures, params, _widths(model), "yes" if model["cached"] else ""))
    notes = [
        "R@1 in percent, zero-shot, raw captions, Karpathy's test splits: clipret reproduce --list has the source",
        "widths: image features / text features / embeddings; ?: unknown without the weights; M params: in millions",
    ]
    remarks: dict[str, list[str]] = {}
    for model in result["models"]:
        if model["remark"]:
            remarks.setdefault(model["remark"], []).append(model["name"])
    notes += [f"{'; '.join(names)}: {remark}" for remark, names in remarks.items()]
    return Sheet("models, the best on COCO first", tuple(columns), (tuple(rows),), tuple(notes))


def _value(model: dict, place: tuple[str, str], *, metric: str) -> float | None:
    protocol, direction = place
    return model["figures"].get(protocol, {}).get(direction, {}).get(metric)


def _figure(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(value, ".1f")


def _widths(model: dict) -> str:
    """Such as 768/512/512; empty if all are unknown."""
    widths = [model[name] for name in _WIDTHS]
    return "/".join("?" if width is None else str(width) for width in widths) if any(widths) else ""
