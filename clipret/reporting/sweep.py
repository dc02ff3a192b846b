"""What a sweep shows: the leaderboard, and the test figures of the best configuration."""

import shlex

from clipret.config import DIRECTIONS, TrainConfig
from clipret.config.comparison import baseline_of
from clipret.evaluation.caveats import reachable_notes
from clipret.metrics import RSUM
from clipret.reporting.figures import figure
from clipret.reporting.sheets import LABEL, Cell, Column, Sheet

_MOST_ROWS = 20
# Of the runs whose heads are in a soup.
_MOST_NAMES = 10
_CUTS = ("R@1", "R@5", "R@10")


def sweep_sheets(result: dict) -> tuple[Sheet, ...]:
    """What sweep returned: the leaderboard, then the test figures if there are any."""
    figures = (_test_sheet(result),) if result["chosen"]["test"] else ()
    soup = (_soup_sheet(result),) if "soup" in result else ()
    return (_leaderboard(result), *figures, *soup)


def sweep_summary(result: dict) -> str:
    """What sweep returned, in words."""
    folder, winner = result["sweep"], result["chosen"]
    lines = [f"{folder}: {result['runs']:,} runs in {result['seconds']:.1f} s; all of them in {folder}/sweep.csv."]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    seeds = zip(winner["runs"], winner["seeds"], strict=True)
    best = next(run for run, seed in seeds if str(seed) not in winner["failed"])
    lines.append(f"To train the best again: {winner['command']}")
    if "soup" in result and result["soup"]["test"]:
        lines.append(f"Is the soup better? clipret compare {shlex.join([result['soup']['run'], best])}")
    lines.append(f"Next: clipret eval --head {shlex.quote(best)}")
    return "\n".join(lines)


def _leaderboard(result: dict) -> Sheet:
    entries, varied, (name, baseline) = result["configurations"], result["varied"], baseline_of(result)
    seeds = len(entries[0]["seeds"])
    tested = result["test_all"] and any(entry["test"] for entry in entries)
    rows = []
    for place, entry in enumerate(entries[:_MOST_ROWS], start=1):
        settings = (_setting(entry["settings"][varying]) for varying in varied)
        rows.append((str(place), *settings, _validation(entry), *(_tests(entry["test"]) if tested else ())))
    figures = _tests(baseline["test"]) if tested else ()
    last = (name, *[""] * len(varied), figure(RSUM, baseline["val_rsum"]), *figures)
    columns = (
        Column(),
        *(Column(name.replace("_", " "), wrap=True) for name in varied),
        Column("val rsum"),
        *map(Column, ("t2i R@1", "i2t R@1", "test rsum") if tested else ()),
    )
    title = f"{_counted(len(entries), 'configuration')}, {_counted(seeds, 'seed')} each, by validation"
    return Sheet(title, columns, (tuple(rows), (last,)), tuple(_notes(result, tested=tested)))


def _notes(result: dict, *, tested: bool) -> list[str]:
    entries = result["configurations"]
    lines = ["mean ± sample standard deviation over seeds; rsum: R@1 + R@5 + R@10, both directions, from 0 to 6"]
    if len(entries) > _MOST_ROWS:
        lines.append(f"and {len(entries) - _MOST_ROWS:,} more in {result['sweep']}/sweep.csv")
    fixed = [f"{name} {_setting(value)}" for name, value in result["fixed"].items() if value != _default(name)]
    if fixed:
        lines.append(f"all: {', '.join(fixed)}")
    if tested:
        lines.append(
            "test figures of all are shown: those of a configuration picked by them are no estimate for new data"
        )
    return lines


def _validation(entry: dict) -> str:
    failed = len(entry["failed"])
    if entry["val_rsum"] is None:
        return "failed"
    mean = _spread(RSUM, entry["val_rsum"]).text
    return f"{mean}, {failed} failed" if failed else mean


def _tests(figures: dict | None) -> tuple[Cell | str, ...]:
    if figures is None:
        return ("", "", "")
    return (*(_spread("R@1", figures[direction]["R@1"]) for direction in DIRECTIONS), _spread(RSUM, figures[RSUM]))


def _test_sheet(result: dict) -> Sheet:
    protocol, winner = result["protocol"], result["chosen"]
    (name, baseline), after = baseline_of(result), winner["test"]
    before = baseline["test"]
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in winner["settings"].items() if value is not None)
    choice = "the best by validation" if result["test_all"] else "chosen by validation, then measured"
    notes = [
        f"percent; ties count against us; {choice}",
        *([f"chosen: {settings}"] if settings else []),
        *reachable_notes(protocol),
    ]

    def row(label: str, metric: str, before: dict, after: dict) -> tuple[Cell | str, ...]:
        gain = figure(metric, after["mean"] - before["mean"], sign=True)
        return (label, _spread(metric, before), _spread(metric, after), gain)

    blocks = [
        tuple(row(f"{direction} {cut}", cut, before[direction][cut], after[direction][cut]) for cut in _CUTS)
        for direction in DIRECTIONS
    ]
    blocks.append((row(RSUM, RSUM, before[RSUM], after[RSUM]),))
    columns = (LABEL, *map(Column, (name, "chosen", "gain")))
    return Sheet(f"{protocol['split']}, protocol {protocol['name']}", columns, tuple(blocks), tuple(notes))


def _soup_sheet(result: dict) -> Sheet:
    """The soup beside the baseline, by validation and, where there are test figures, by those."""
    soup, (name, baseline) = result["soup"], baseline_of(result)
    rows = [_soup_row("val rsum", RSUM, baseline["val_rsum"], soup["val_rsum"])]
    title, tested = "soup", []
    if soup["test"]:
        protocol, before, after = result["protocol"], baseline["test"], soup["test"]
        title = f"soup, {protocol['split']}, protocol {protocol['name']}"
        tested = [
            tuple(_soup_row(f"{side} {cut}", cut, before[side][cut]["mean"], after[side][cut]["mean"]) for cut in _CUTS)
            for side in DIRECTIONS
        ]
        tested.append((_soup_row(RSUM, RSUM, before[RSUM]["mean"], after[RSUM]["mean"]),))
    columns = (LABEL, *map(Column, (name, "soup", "gain")))
    return Sheet(title, columns, (tuple(rows), *tested), tuple(_soup_notes(soup)))


def _soup_row(label: str, metric: str, before: float, after: float) -> tuple[Cell | str, ...]:
    return (label, figure(metric, before), figure(metric, after), figure(metric, after - before, sign=True))


def _soup_notes(soup: dict) -> list[str]:
    best, others = soup["runs"][0], len(soup["runs"]) - 1
    lines = [
        f"the average of {_counted(others + 1, 'head')} of {soup['heads']:,}, accepted on val: rsum of the best alone "
        f"{soup['best_val_rsum']:.3f}, of the soup {soup['val_rsum']:.3f}"
        if others
        else f"no average with another head was as good on val: the soup is the head of {best}"
    ]
    if "start" in soup["unlike"]:
        lines.append(
            f"{_counted(soup['unlike']['start'], 'head')} not averaged: they started from other weights than {best} "
            f"(--init, or a random start by seed)"
        )
    if "kind" in soup["unlike"]:
        lines.append(
            f"{_counted(soup['unlike']['kind'], 'head')} not averaged: of another kind or other settings of the head "
            f"than {best}"
        )
    return [*lines, f"its heads: {', '.join(soup['runs'][:_MOST_NAMES])}{', ...' if others >= _MOST_NAMES else ''}"]


def _spread(metric: str, figures: dict) -> Cell:
    """The mean over seeds, and its standard deviation where there are several."""
    mean = figure(metric, figures["mean"])
    return mean if figures["std"] is None else Cell(f"{mean.text} ± {figure(metric, figures['std']).text}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _default(name: str):
    return getattr(TrainConfig, name)


def _setting(value) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
