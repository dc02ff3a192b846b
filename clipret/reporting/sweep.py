"""What a sweep shows: the leaderboard, and the test figures of the configuration that was chosen."""

import shlex

from rich import box
from rich.markup import escape
from rich.table import Table

from clipret.config import DIRECTIONS, TrainConfig
from clipret.reporting.metrics import reachable_notes

_MOST_ROWS = 20
_CUTS = ("R@1", "R@5", "R@10")


def sweep_tables(result: dict) -> tuple[Table, ...]:
    """What sweep returned: the leaderboard, then the test figures if there are any."""
    figures = (_test_table(result),) if result["chosen"]["test"] else ()
    return (_leaderboard(result), *figures)


def sweep_summary(result: dict) -> str:
    """What sweep returned, in words."""
    folder, chosen = result["sweep"], result["chosen"]
    lines = [f"{folder}: {result['runs']:,} runs in {result['seconds']:.1f} s; all of them in {folder}/sweep.csv."]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    best = next(
        run for run, seed in zip(chosen["runs"], chosen["seeds"], strict=True) if str(seed) not in chosen["failed"]
    )
    lines.append(f"To train the best again: {chosen['command']}")
    lines.append(f"Next: clipret eval --head {shlex.quote(best)}")
    return "\n".join(lines)


def _leaderboard(result: dict) -> Table:
    entries, varied = result["configurations"], result["varied"]
    seeds = len(entries[0]["seeds"])
    tested = result["test_all"] and any(entry["test"] for entry in entries)
    table = Table(
        title=f"{_counted(len(entries), 'configuration')}, {_counted(seeds, 'seed')} each, by validation",
        caption=_footnote(result, tested=tested),
        caption_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("", justify="right", no_wrap=True)
    for name in varied:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("val rsum", justify="right")
    for name in ("t2i R@1", "i2t R@1", "test rsum") if tested else ():
        table.add_column(name, justify="right")
    zero_shot = result["zero_shot"]
    for place, entry in enumerate(entries[:_MOST_ROWS], start=1):
        settings = (_setting(entry["settings"][name]) for name in varied)
        table.add_row(str(place), *settings, _validation(entry), *(_tests(entry["test"]) if tested else ()))
    table.add_section()
    figures = _tests(zero_shot["test"]) if tested else ()
    table.add_row("zero-shot", *[""] * len(varied), f"{zero_shot['val_rsum']:.3f}", *figures)
    return table


def _footnote(result: dict, *, tested: bool) -> str:
    entries = result["configurations"]
    lines = ["mean ± sample standard deviation over seeds; rsum: R@1 + R@5 + R@10, both directions, from 0 to 6"]
    if len(entries) > _MOST_ROWS:
        lines.append(f"and {len(entries) - _MOST_ROWS:,} more in {result['sweep']}/sweep.csv")
    fixed = [f"{name} {_setting(value)}" for name, value in result["fixed"].items() if value != _default(name)]
    if fixed:
        lines.append(f"all: {', '.join(fixed)}")
    if tested:
        lines.append(
            "test figures are shown for all: chosen by them, a configuration's figures are no estimate for new data"
        )
    return escape("\n".join(lines))


def _validation(entry: dict) -> str:
    failed = len(entry["failed"])
    if entry["val_rsum"] is None:
        return "failed"
    told = _spread(entry["val_rsum"], digits=3)
    return f"{told}, {failed} failed" if failed else told


def _tests(figures: dict | None) -> tuple[str, ...]:
    if figures is None:
        return ("", "", "")
    recalls = (_percent(figures[way]["R@1"]) for way in DIRECTIONS)
    return (*recalls, _spread(figures["rsum"], digits=3))


def _test_table(result: dict) -> Table:
    protocol, chosen = result["protocol"], result["chosen"]
    before, after = result["zero_shot"]["test"], chosen["test"]
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in chosen["settings"].items() if value is not None)
    choice = "the best by validation" if result["test_all"] else "chosen by validation, then measured"
    notes = [
        f"percent; ties count against us; {choice}",
        *([f"chosen: {settings}"] if settings else []),
        *reachable_notes(protocol),
    ]
    table = Table(
        title=f"{protocol['split']}, protocol {protocol['name']}",
        caption=escape("\n".join(notes)),
        caption_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("", no_wrap=True)
    for name in ("zero-shot", "chosen", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    for way in DIRECTIONS:
        for cut in _CUTS:
            gain = 100 * (after[way][cut]["mean"] - before[way][cut]["mean"])
            table.add_row(f"{way} {cut}", _percent(before[way][cut]), _percent(after[way][cut]), f"{gain:+.1f}")
        table.add_section()
    gain = after["rsum"]["mean"] - before["rsum"]["mean"]
    table.add_row("rsum", *(_spread(each["rsum"], digits=3) for each in (before, after)), f"{gain:+.3f}")
    return table


def _percent(figures: dict) -> str:
    std = figures["std"]
    return _spread({"mean": 100 * figures["mean"], "std": None if std is None else 100 * std}, digits=1)


def _spread(figures: dict, *, digits: int) -> str:
    std = "" if figures["std"] is None else f" ± {figures['std']:.{digits}f}"
    return f"{figures['mean']:.{digits}f}{std}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _default(name: str):
    return getattr(TrainConfig, name)


def _setting(value) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else escape(str(value))
