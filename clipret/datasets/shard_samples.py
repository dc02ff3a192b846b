"""The samples of a shard: which of its members are an image and its captions, by their names alone."""

from dataclasses import dataclass, field
from pathlib import Path

from clipret.datasets.parsing import listed
from clipret.datasets.tars import member_index
from clipret.errors import DatasetError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_CAPTIONS = ("txt", "json")
RULE = "a sample is all members with the same name up to the first dot"
IMAGE_ENDINGS = ".jpg, .jpeg, .png or .webp"


@dataclass
class Sample:
    """The members of one key.

    image   name of its image; None: it has none
    texts   its captions: `txt` and `json` -> name
    dotted  whether these endings follow more than one dot, as in 0001.input.jpg
    """

    key: str
    image: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    dotted: bool = False


@dataclass
class Samples:
    """Those of one shard in the order of each key's first member.

    strays   members whose names have no key or no ending
    endings  all that follow a key, those of no use as well
    """

    samples: list[Sample]
    strays: list[str]
    endings: set[str]


@dataclass
class _Members:
    """The members of one key by what they are: plain ones, as 0001.jpg, and dotted ones, as 0001.input.jpg."""

    plain: dict[str, list[str]] = field(default_factory=dict)
    dotted: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, ending: str) -> None:
        last = ending.rpartition(".")[2].lower()
        kind = "image" if last in _IMAGES else last if last in _CAPTIONS else None
        if kind:
            (self.dotted if "." in ending else self.plain).setdefault(kind, []).append(name)

    def of(self, *kinds: str) -> tuple[dict[str, list[str]], bool]:
        """The plain members of these kinds; where there is none, the dotted ones; and whether it is these."""
        members = {kind: self.plain[kind] for kind in kinds if kind in self.plain}
        if members:
            return members, False
        members = {kind: self.dotted[kind] for kind in kinds if kind in self.dotted}
        return members, bool(members)


def read_samples(shard: Path) -> Samples:
    """The samples of a shard, by webdataset's rule: a key ends at the first dot after the last slash.

    Of what follows the last dot says what the member is. Where a plain member, 0001.jpg, is there, dotted ones such as
    0001.mask.png are of no concern.

    Raises DatasetError when a sample has several images, several captions of one kind, or an image and a caption whose
    names differ in more than words.
    """
    members: dict[str, _Members] = {}
    strays, endings = [], set()
    for name in member_index(shard):
        folder, slash, file = name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if not stem or not dot:
            strays.append(name)
            continue
        endings.add(ending)
        members.setdefault(f"{folder}{slash}{stem}", _Members()).add(name, ending)
    images = {key: own.of("image") for key, own in members.items()}
    texts = {key: own.of(*_CAPTIONS) for key, own in members.items()}
    _require_one(shard, "image", {key: names.get("image", []) for key, (names, _) in images.items()})
    for kind in _CAPTIONS:
        _require_one(shard, f".{kind}", {key: names.get(kind, []) for key, (names, _) in texts.items()})
    samples = [
        Sample(
            key,
            image=next(iter(images[key][0].get("image", [])), None),
            texts={kind: names[0] for kind, names in texts[key][0].items()},
            dotted=images[key][1] or texts[key][1],
        )
        for key in members
    ]
    _require_pairs(shard, samples)
    return Samples(samples, strays, endings)


def _require_one(shard: Path, what: str, names: dict[str, list[str]]) -> None:
    several = {key: own for key, own in names.items() if len(own) > 1}
    if several:
        key, own = next(iter(several.items()))
        raise DatasetError(
            f"{shard}: {len(several):,} samples have more than one {what}, first {key}: {listed(own)}; {RULE}: "
            f"expected one {what} in each."
        )


def _require_pairs(shard: Path, samples: list[Sample]) -> None:
    """Raise DatasetError where a.1.jpg and a.2.txt would be a sample; a.input.jpg and a.output.txt are one."""
    odd = []
    for sample in samples:
        if sample.image and sample.dotted:
            middles = {_middle(name, sample.key) for name in (sample.image, *sample.texts.values())} - {""}
            if len(middles) > 1 and any(character.isdigit() for middle in middles for character in middle):
                odd.append(sample)
    if odd:
        first = odd[0]
        raise DatasetError(
            f"{shard}: {len(odd):,} samples have an image and a caption of other names, first {first.key}: "
            f"{listed([first.image, *first.texts.values()])}; {RULE}: expected no further numbers, or the same."
        )


def _middle(name: str, key: str) -> str:
    """What is between the first dot and the last: `input` of 0001.input.jpg, none of 0001.jpg."""
    return name[len(key) :].rpartition(".")[0]
