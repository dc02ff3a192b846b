"""What is compared: words of the command line -> ranks of a head, whose settings and seed it has, and a name for it."""

import json
import re
from collections import Counter
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

from clipret import runs
from clipret.config import TrainConfig
from clipret.config.comparison import ZERO_SHOT
from clipret.config.evaluation import wise_ft_name
from clipret.errors import RunError, UsageError
from clipret.rankings import ProtocolRankings, Rankings, rankings_path, read_rankings

# What decides neither the head nor its figures.
_APART = {"cache", "name", "runs_dir", "seed", "device", "log", "features", "memory_limit"}
_MOST_SETTINGS = 3
# A run, and how far from CLIP's own head to its own.
_BETWEEN = re.compile(r"(?P<run>.+)@(?P<alpha>[0-9.]+)")


@dataclass(frozen=True)
class Contender:
    """One head that was measured.

    word        as the user gave it
    ranks       the file of its ranks
    head        its name there: trained, wise-ft ALPHA, or zero-shot
    rankings    what that file holds
    record      what the metrics.json beside it says; None: there is none
    settings    of its training (TrainConfig's), without seed and places, and wise-ft, its ALPHA; None: zero-shot, or
                its run is not there
    seed        of its training; None where settings are
    trained_on  fingerprint of the cache that it was trained on; None where settings are
    """

    word: str
    ranks: Path
    head: str
    rankings: Rankings
    record: dict | None = None
    settings: dict | None = None
    seed: int | None = None
    trained_on: str | None = None

    def ranked(self, protocol: str) -> ProtocolRankings:
        """By the protocol of that name."""
        return next(found for found in self.rankings.protocols if found.protocol["name"] == protocol)

    def leakage(self, digest: str) -> dict | None:
        """What metrics.json says of the head's training images in the gallery of this digest; None: nothing."""
        measured = [self.record, *self.record.get("also", ())] if self.record else []
        found = (part["leakage"] for part in measured if part["protocol"].get("digest") == digest)
        return next(found, None)


@dataclass(frozen=True)
class Group:
    """Heads that differ in nothing but their seeds.

    label    shortest settings that tell it from the other groups, or the name of a run
    """

    label: str
    members: tuple[Contender, ...]


def read_contenders(words: tuple[str, ...]) -> list[Contender]:
    """Raises RunError when a word is no run that was measured, or UsageError when two are the same."""
    read = {word: _read(word) for word in dict.fromkeys(words) if word != ZERO_SHOT}
    first = next(iter(read.values()), None)
    found = []
    for word in words:
        if word == ZERO_SHOT and first is not None:
            found.append(Contender(word, first.ranks, ZERO_SHOT, first.rankings, first.record))
        elif word == ZERO_SHOT:
            raise UsageError(f"{ZERO_SHOT} is there twice and no run; give at least one run to compare it with.")
        else:
            found.append(read[word])
    for earlier, later in combinations(found, 2):
        _refuse_same(earlier, later)
    return found


def choose_protocol(contenders: list[Contender], name: str | None) -> str:
    """Name of the protocol that all were measured by, with the same questions; None: the first of them.

    Raises UsageError, naming the first difference.
    """
    measured = [[found.protocol["name"] for found in each.rankings.protocols] for each in contenders]
    wanted = [name] if name else measured[0]
    shared = [candidate for candidate in wanted if all(candidate in names for names in measured)]
    if not shared:
        lacking = next(place for place, names in enumerate(measured) if not set(wanted) & set(names))
        told = f"measured by {', '.join(measured[lacking])}"
        if name is None:
            told += f", {contenders[0].word} by {', '.join(measured[0])}"
        raise UsageError(
            f"{contenders[lacking].word} was {told}; measure it the same way with: "
            f"{_measuring(contenders[lacking].word)} --protocol {wanted[0]}"
        )
    questions = [each.ranked(shared[0]).protocol for each in contenders]
    for each, other in zip(contenders[1:], questions[1:], strict=True):
        if other["digest"] != questions[0]["digest"]:
            raise UsageError(
                f"{contenders[0].word} and {each.word} were not asked the same by protocol {shared[0]}: "
                f"{_difference(questions[0], other)}; measure both on the same images and captions."
            )
    return shared[0]


def make_groups(contenders: list[Contender]) -> list[Group]:
    """Those whose settings, caches and model are equal, pooled over their seeds; in the order of their first members.

    Raises UsageError when two members have the same seed, or when there is but one group.
    """
    pooled: dict[str, list[Contender]] = {}
    for each in contenders:
        pooled.setdefault(_key(each), []).append(each)
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
            f"{', '.join(each.word for each in contenders)} differ in nothing but their seeds; "
            f"give something to compare them with, such as {ZERO_SHOT}."
        )
    return [Group(label, tuple(members)) for label, members in zip(_labels(groups), groups, strict=True)]


def _read(word: str) -> Contender:
    place, alpha = _split(word)
    metrics, ranks = _places(place)
    if metrics.exists() and not ranks.exists() and not (metrics.parent / runs.CONFIG).exists():
        raise RunError(f"there is no {ranks} beside {metrics}; measure again with: clipret eval --out {metrics}")
    rankings, record = read_rankings(ranks), _record(metrics)
    measured = rankings.protocols[0].heads
    head = "trained" if "trained" in measured else ZERO_SHOT
    if alpha is not None:
        head = wise_ft_name(alpha)
        if head not in measured:
            raise RunError(f"{place} was not measured as {head}; measure it with: {_measuring(word)}")
    run = _run(metrics, record) if head != ZERO_SHOT else None
    if run is None:
        return Contender(word, ranks, head, rankings, record)
    content = runs.read_config(run)
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    settings = {name: content["config"].get(name, default) for name, default in defaults.items() if name not in _APART}
    settings["wise-ft"] = alpha
    seed = content["config"].get("seed", TrainConfig.seed)
    return Contender(word, ranks, head, rankings, record, settings, seed, content["cache"]["fingerprint"])


def _split(word: str) -> tuple[str, float | None]:
    """A run's word and alpha of RUN@ALPHA; of any other word, that word and None."""
    told = None if Path(word).exists() else _BETWEEN.fullmatch(word)
    if told is None:
        return word, None
    try:
        return told["run"], float(told["alpha"])
    except ValueError:
        return word, None


def _measuring(word: str) -> str:
    """The command that measures what a word means."""
    place, alpha = _split(word)
    return f"clipret eval --head {place}" + ("" if alpha is None else f" --wise-ft {alpha:.12g}")


def _places(word: str) -> tuple[Path, Path]:
    """The metrics and the ranks that a word means. Raises RunError when there is no such thing."""
    path = Path(word)
    if path.name == runs.HEAD:
        path = path.parent
    if path.is_dir():
        if not (path / runs.CONFIG).exists() and not (path / runs.RANKS).exists():
            inside = next((entry.parent for entry in sorted(path.glob(f"*/{runs.CONFIG}"))), None)
            told = f", such as {inside}" if inside else f", a file that eval wrote, or {ZERO_SHOT}"
            raise RunError(f"{path} is not a run: it has no {runs.CONFIG}; expected the folder of a run{told}.")
        return path / runs.METRICS, path / runs.RANKS
    if not path.exists():
        raise RunError(f"there is no {path}; expected a run's folder, a file that clipret eval wrote, or {ZERO_SHOT}.")
    if path.suffix != Path(runs.RANKS).suffix:
        return path, rankings_path(path)
    stem = path.name.removesuffix(runs.RANKS).rstrip(".")
    return path.with_name(f"{stem}.json" if stem else runs.METRICS), path


def _record(metrics: Path) -> dict | None:
    try:
        record = json.loads(metrics.read_text(encoding="utf-8"))
        if {"run", "protocol", "leakage"} <= set(record):
            return record
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{metrics} cannot be read ({type(error).__name__}: {error}); measure again.") from None
    raise RunError(f"{metrics} is not what clipret eval writes; expected a metrics.json.")


def _run(metrics: Path, record: dict | None) -> Path | None:
    """The folder of the run that was measured, where it is still there."""
    told = [Path(record["run"])] if record and record["run"] else []
    return next((run for run in (metrics.parent, *told) if (run / runs.CONFIG).exists()), None)


def _refuse_same(earlier: Contender, later: Contender) -> None:
    if (earlier.ranks.resolve(), earlier.head) == (later.ranks.resolve(), later.head):
        told = f"{earlier.word} is" if earlier.word == later.word else f"{earlier.word} and {later.word} are"
        raise UsageError(f"{told} the same head twice; give each once.")


def _difference(ours: dict, theirs: dict) -> str:
    told = [("split", "{}"), ("images", "{:,} images"), ("captions", "{:,} captions"), ("folds", "{} galleries")]
    for name, words in told:
        if ours[name] != theirs[name]:
            return f"{words.format(ours[name])} and {words.format(theirs[name])}"
    return f"{ours['images']:,} images and {ours['captions']:,} captions each, but not the same ones"


def _key(each: Contender) -> str:
    if each.settings is None:
        return str((each.ranks.resolve(), each.head))
    measured = each.rankings.cache
    return json.dumps([each.settings, each.trained_on, measured["fingerprint"], measured["model"]], sort_keys=True)


def _labels(groups: list[list[Contender]]) -> list[str]:
    names = [_name(members) for members in groups]
    told = _settings_told([members[0] for members in groups])
    labels = [told[place] or name for place, name in enumerate(names)]
    counted = Counter(labels)
    return [label if counted[label] == 1 else name for label, name in zip(labels, names, strict=True)]


def _name(members: list[Contender]) -> str:
    first = members[0]
    name = first.word if first.word == ZERO_SHOT else Path(first.word).name
    return name if len(members) == 1 else f"{name} +{len(members) - 1}"


def _settings_told(firsts: list[Contender]) -> list[str | None]:
    """The fewest settings that tell all groups that have some from each other; None where that takes too many."""
    known = [
        {"loss": None, "head": None, "lr": None, **each.settings, "model": each.rankings.cache["model"]}
        for each in firsts
        if each.settings is not None
    ]
    differing = [name for name in (known[0] if known else ()) if len({str(each[name]) for each in known}) > 1]
    for size in range(1, _MOST_SETTINGS + 1):
        for chosen in combinations(differing, size):
            told = [" ".join(f"{name}={_setting(each[name])}" for name in chosen) for each in known]
            if len(set(told)) == len(known):
                labels = iter(told)
                return [next(labels) if each.settings is not None else None for each in firsts]
    return [None] * len(firsts)


def _setting(value) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
