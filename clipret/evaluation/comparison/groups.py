"""Grouping of heads that differ only in their seeds, and a label for each group."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from clipret import runs
from clipret.errors import UsageError
from clipret.evaluation.comparison.contenders import Contender

_MOST_SETTINGS = 3


@dataclass(frozen=True)
class Group:
    """Heads that differ only in their seeds.

    label    the fewest settings that distinguish it from the other groups, or the name of a run
    """

    label: str
    members: tuple[Contender, ...]


def make_groups(contenders: list[Contender]) -> list[Group]:
    """Group contenders with equal settings, caches and model, whatever their seeds; in order of first members.

    Raises UsageError when two members have the same seed, or when there is only one group.
    """
    pooled: dict[str, list[Contender]] = {}
    for contender in contenders:
        pooled.setdefault(_key(contender), []).append(contender)
    for members in pooled.values():
        for earlier, later in combinations(members, 2):
            if earlier.seed == later.seed:
                raise UsageError(
                    f"{earlier.word} and {later.word} have the same settings and the same seed, {earlier.seed}: "
                    f"they are one result; give one of them."
                )
    groups = list(pooled.values())
    if len(groups) == 1:
        raise UsageError(
            f"{', '.join(contender.word for contender in contenders)} differ only in their seeds; "
            f"add something to compare them with, such as {contenders[0].baseline}."
        )
    return [Group(label, tuple(members)) for label, members in zip(_labels(groups), groups, strict=True)]


def _key(contender: Contender) -> str:
    if contender.settings is None:
        return str((contender.ranks.resolve(), contender.head))
    measured = contender.rankings.cache
    trained_on = contender.rankings.trained.fingerprint
    return json.dumps([contender.settings, trained_on, measured["fingerprint"], measured["model"]], sort_keys=True)


def _labels(groups: list[list[Contender]]) -> list[str]:
    """Labels by settings if these distinguish the groups; else names; else the arguments as given."""
    labels = [settings or _name(members) for settings, members in zip(_settings_told(groups), groups, strict=True)]
    for name in (_name, lambda members: members[0].word):
        counted = Counter(labels)
        labels = [
            label if counted[label] == 1 else name(members) for label, members in zip(labels, groups, strict=True)
        ]
    return labels


def _name(members: list[Contender]) -> str:
    first = members[0]
    path = Path(first.word)
    # Files that every run has, and relative paths of dots.
    ours = path.name in (runs.METRICS, runs.RANKS, runs.HEAD)
    name = (path.resolve().parent if ours else path.resolve()).name if ours or path.is_dir() else path.name
    return name if len(members) == 1 else f"{name} +{len(members) - 1}"


def _settings_told(groups: list[list[Contender]]) -> list[str | None]:
    """Labels with the fewest settings that distinguish all groups with settings; None if that takes too many."""
    firsts = [members[0] for members in groups]
    settings = [
        {"loss": None, "head": None, "lr": None, **member.settings, "model": member.rankings.cache["model"]}
        for member in firsts
        if member.settings is not None
    ]
    names = settings[0] if settings else ()
    differing = [name for name in names if len({str(of_group[name]) for of_group in settings}) > 1]
    for size in range(1, _MOST_SETTINGS + 1):
        for names in combinations(differing, size):
            labels = [" ".join(f"{name}={_setting(of_group[name])}" for name in names) for of_group in settings]
            if len(set(labels)) == len(settings):
                remaining = iter(labels)
                return [next(remaining) if member.settings is not None else None for member in firsts]
    return [None] * len(firsts)


def _setting(value) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
