"""The heads to compare: arguments of the command line -> ranks of a head, settings and seed of its training."""

import re
import shlex
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path

from clipret import runs
from clipret.config import TrainConfig
from clipret.config.choices import COSINE
from clipret.config.comparison import BASELINES, ZERO_SHOT
from clipret.config.evaluation import WISE_FT, wise_ft_name
from clipret.config.training import PLACES, in_use
from clipret.errors import RunError, UsageError
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import ProtocolRankings, Rankings, Trained, head_digest, rankings_path, read_rankings
from clipret.retrieval.scorings import SCORINGS, scored_name

# Settings that are no part of what is compared: a seed is one of several of the same settings.
_APART = {*PLACES, "seed"}
# A run, and the WiSE-FT alpha from the baseline (0) to the run's (1).
_BETWEEN = re.compile(r"(?P<run>.+)@(?P<alpha>[0-9.]+)")


@dataclass(frozen=True)
class Contender:
    """One evaluated head.

    word      as the user gave it
    ranks     the file of its ranks
    head      its name: trained, wise-ft ALPHA, or one of BASELINES
    rankings  what that file holds
    settings  of its training (TrainConfig's), without seed and places, and wise-ft, its ALPHA; None: a baseline, or the
              head was in no run's folder
    seed      of its training; None where settings are
    scoring   cosine, or one of SCORINGS
    """

    word: str
    ranks: Path
    head: str
    rankings: Rankings
    settings: dict | None = None
    seed: int | None = None
    scoring: str = COSINE

    def ranked(self, protocol: str) -> ProtocolRankings:
        """All ranks of its file by the protocol of that name."""
        return next(ranked for ranked in self.rankings.protocols if ranked.protocol["name"] == protocol)

    def ranks_by(self, protocol: str) -> dict[str, tuple[Ranks, ...]]:
        """Its own: direction -> Ranks of each fold."""
        return self.ranked(protocol).heads[scored_name(self.head, self.scoring)]

    @property
    def baseline(self) -> str:
        """Which of BASELINES was measured beside it."""
        return next(name for name in self.rankings.protocols[0].heads if name in BASELINES)

    @property
    def command(self) -> str:
        """The command that evaluates it."""
        trained = None if self.head in BASELINES else self.rankings.trained
        more = ("--scoring", self.scoring) if self.scoring != COSINE else ()
        if trained is None:
            return _eval_command("--zero-shot", "--cache", self.rankings.cache["path"], *more)
        if self.head.startswith(WISE_FT):
            more = ("--wise-ft", self.head.removeprefix(WISE_FT), *more)
        return _eval_command("--head", trained.run or trained.head, *more)


def read_contenders(words: tuple[str, ...]) -> list[Contender]:
    """The heads of these arguments. Raises RunError for one that is no evaluated run, UsageError for duplicates."""
    parts = {word: _scored(word) for word in words}
    read = {word: _read(word, *of_word) for word, of_word in parts.items() if of_word[0] not in BASELINES}
    first = next(iter(read.values()), None)
    contenders = []
    for word in words:
        if word in read:
            contenders.append(read[word])
        elif first is not None:
            contenders.append(_baseline(word, *parts[word], beside=first))
        else:
            raise UsageError(f"only `{word}` was given; name at least one run to compare it with.")
    for earlier, later in combinations(contenders, 2):
        _refuse_same(earlier, later)
    return contenders


def choose_protocol(contenders: list[Contender], name: str | None) -> str:
    """The name of a protocol that all were evaluated by, on the same queries and galleries; name None: the first such.

    Raises UsageError, naming the first difference.
    """
    measured = [[ranked.protocol["name"] for ranked in contender.rankings.protocols] for contender in contenders]
    wanted = [name] if name else measured[0]
    shared = [candidate for candidate in wanted if all(candidate in names for names in measured)]
    if not shared:
        lacking = next(place for place, names in enumerate(measured) if wanted[0] not in names)
        measurement = f"measured by {', '.join(measured[lacking])}"
        if name is None:
            measurement += f", {contenders[0].word} by {', '.join(measured[0])}"
        raise UsageError(
            f"{contenders[lacking].word} was {measurement}; measure it the same way with: "
            f"{contenders[lacking].command} --protocol {wanted[0]}"
        )
    questions = [contender.ranked(shared[0]).protocol for contender in contenders]
    for contender, other in zip(contenders[1:], questions[1:], strict=True):
        pair = f"{contenders[0].word} and {contender.word}"
        if other["digest"] != questions[0]["digest"]:
            raise UsageError(
                f"{pair} were measured on different data by protocol {shared[0]}: {_difference(questions[0], other)}; "
                f"measure both on the same images and captions."
            )
        if not _same_queries(contenders[0], contender, protocol=shared[0]):
            raise RunError(
                f"{pair} have ranks of different queries by protocol {shared[0]} although their digests are equal; "
                f"measure both again."
            )
        if other["precision"] != questions[0]["precision"]:
            raise UsageError(
                f"{pair} were ranked as {questions[0]['precision']} and {other['precision']}; measure both at the same "
                f"--precision."
            )
    return shared[0]


def _same_queries(first: Contender, second: Contender, *, protocol: str) -> bool:
    """Whether the ranks are of queries of the same images, over galleries of the same size."""

    def queries(contender: Contender) -> list[tuple]:
        directions = contender.ranks_by(protocol).values()
        return [(ranks.gallery, ranks.images.tolist()) for folds in directions for ranks in folds]

    return queries(first) == queries(second)


def _read(word: str, head_word: str, scoring: str) -> Contender:
    place, alpha = _split(head_word)
    ranks = _ranks_of(place)
    try:
        rankings = read_rankings(ranks)
    except FileNotFoundError:
        more = ("--scoring", scoring) if scoring != COSINE else ()
        raise RunError(f"{place} was not measured; measure it with: {_eval_command('--head', place, *more)}") from None
    trained = rankings.trained
    measured = rankings.protocols[0].heads
    head = "trained" if trained else next(iter(measured))
    if trained:
        _require_as_measured(place, ranks, trained)
    if alpha is not None:
        head = wise_ft_name(alpha)
        if head not in measured:
            how = _eval_command(
                "--head", trained.run or trained.head if trained else place, "--wise-ft", f"{alpha:.12g}"
            )
            raise RunError(f"{place} was not measured as {head}; measure it with: {how}")
    if trained is None or trained.config is None:
        return _require_scored(Contender(word, ranks, head, rankings, scoring=scoring))
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    # A setting that does not apply, such as a margin with InfoNCE, is not compared.
    used = {name: value for name, value in trained.config.items() if in_use(trained.config, name)}
    settings = {name: used.get(name, default) for name, default in defaults.items() if name not in _APART}
    settings |= {"wise-ft": alpha, "scoring": scoring}
    seed = trained.config.get("seed", TrainConfig.seed)
    return _require_scored(Contender(word, ranks, head, rankings, settings, seed, scoring))


def _baseline(word: str, head: str, scoring: str, *, beside: Contender) -> Contender:
    """The baseline that was measured beside a head. Raises UsageError when it is another than the word says."""
    name = beside.baseline
    if name != head:
        why = "its encoders have no projections of their own" if head == ZERO_SHOT else "its encoder has projections"
        raise UsageError(f"{beside.word} has no {head} beside it: {why}; compare it with {name}.")
    return _require_scored(Contender(word, beside.ranks, name, beside.rankings, scoring=scoring), beside=beside)


def _require_scored(contender: Contender, *, beside: Contender | None = None) -> Contender:
    """The contender. Raises RunError if it was not measured by its scoring.

    beside  the head whose file its ranks are in, if that is another
    """
    if scored_name(contender.head, contender.scoring) not in contender.rankings.protocols[0].heads:
        command = replace(beside or contender, scoring=contender.scoring).command
        raise RunError(f"{contender.word}: it was measured by cosine only; measure it with: {command}")
    return contender


def _require_as_measured(word: str, ranks: Path, trained: Trained) -> None:
    """Raise RunError if the head next to the ranks has changed since it was evaluated."""
    head = ranks.parent / runs.HEAD
    if ranks.name != runs.RANKS or not head.exists():
        return
    if head_digest(head) != trained.sha256:
        raise RunError(
            f"{word} was trained further after it was measured; measure it again with: "
            f"{_eval_command('--head', str(ranks.parent))}"
        )


def _scored(word: str) -> tuple[str, str]:
    """HEAD@SCORING -> head and scoring; any other argument -> that argument and cosine."""
    head, _, scoring = word.rpartition("@")
    return (head, scoring) if head and scoring in SCORINGS and not Path(word).exists() else (word, COSINE)


def _split(word: str) -> tuple[str, float | None]:
    """RUN@ALPHA -> run and alpha; any other argument -> that argument and None."""
    match = None if Path(word).exists() else _BETWEEN.fullmatch(word)
    if match is None:
        return word, None
    try:
        return match["run"], float(match["alpha"])
    except ValueError:
        return word, None


def _eval_command(*words: str) -> str:
    return shlex.join(["clipret", "eval", *words])


def _ranks_of(word: str) -> Path:
    """The path of the ranks for an argument; the file may not exist. Raises RunError for an unknown argument."""
    path = Path(word)
    if path.name == runs.HEAD and (path.exists() or path.with_name(runs.RANKS).exists()):
        return path.with_name(runs.RANKS)
    if not path.exists():
        words = " or ".join(BASELINES)
        raise RunError(f"there is no {path}; expected a run's folder, a file that clipret eval wrote, {words}.")
    if path.is_dir():
        return _ranks_in(path)
    if path.name.endswith(runs.RANKS):
        return path
    report = _report(path)
    ranks = rankings_path(path)
    if not ranks.exists():
        what = ("--head", report["head"]) if report["head"] else ("--zero-shot", "--cache", report["cache"]["path"])
        how = _eval_command(*what, "--out", str(path))
        raise RunError(f"there is no {ranks} beside {path}; measure again with: {how}")
    return ranks


def _ranks_in(folder: Path) -> Path:
    if not (folder / runs.CONFIG).exists() and not (folder / runs.RANKS).exists():
        inside = next((entry.parent for entry in sorted(folder.glob(f"*/{runs.CONFIG}"))), None)
        example = f", such as {inside}" if inside else f", a file that eval wrote, {' or '.join(BASELINES)}"
        raise RunError(f"{folder} is not a run: it has no {runs.CONFIG}; expected the folder of a run{example}.")
    if not (folder / runs.RANKS).exists() and not (folder / runs.HEAD).exists():
        raise RunError(
            f"{folder} has neither ranks nor a head: a sweep keeps the best heads and measures the best one; give it "
            f"--test-all to compare all, or a larger --keep-heads to measure some."
        )
    return folder / runs.RANKS


def _report(path: Path) -> dict:
    """The content of a file that eval wrote. Raises RunError for any other file."""
    if path.suffix != Path(runs.METRICS).suffix:
        raise RunError(f"{path} is not what clipret eval writes; expected a run's folder, or a metrics.json.")
    return runs.read_metrics(path)


def _refuse_same(earlier: Contender, later: Contender) -> None:
    if earlier.word == later.word:
        raise UsageError(f"{earlier.word} was given twice; give it once.")
    places = [(head.ranks.resolve(), head.head, head.scoring) for head in (earlier, later)]
    if places[0] == places[1]:
        raise UsageError(f"{earlier.word} and {later.word} are the same head; give one of them.")


def _difference(ours: dict, theirs: dict) -> str:
    formats = [("split", "{}"), ("images", "{:,} images"), ("captions", "{:,} captions"), ("folds", "{} galleries")]
    for name, words in formats:
        if ours[name] != theirs[name]:
            return f"{words.format(ours[name])} and {words.format(theirs[name])}"
    return f"{ours['images']:,} images and {ours['captions']:,} captions each, but not the same ones"
