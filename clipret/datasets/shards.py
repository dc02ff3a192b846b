"""WebDataset shards: tar files in which an image and its captions have the same name but for the ending."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits, split_code
from clipret.datasets.parsing import json_of, listed, shortened, text_of
from clipret.datasets.shard_files import common_folder, find_shards, shards_name
from clipret.datasets.tars import member_index, read_member
from clipret.errors import DatasetError

__all__ = ["load_shards", "member_index", "read_member"]

_IMAGES = ("jpg", "jpeg", "png", "webp")
# The fields of a .json that hold captions, unless the user names another.
_CAPTION_FIELDS = ("caption", "captions")


@dataclass
class _Sample:
    """The members of one key: its images, and its .txt and .json by their endings."""

    key: str
    images: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class _Columns:
    """What the samples say, in the order of the shards and, within one, of each key's first member."""

    ids: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    splits: list[int | None] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)


def load_shards(config: DatasetConfig) -> RetrievalDataset:
    """Read the samples of the shards that config.dataset names: a file, a glob, or a pattern with braces.

    A sample is every member with the same name up to the first dot after the last slash, wherever they are in the
    shard. Its image is a .jpg, .jpeg, .png or .webp. Its captions are the lines of its .txt that are not blank; without
    a .txt, or where config.columns names the field, what its .json has as `caption` or `captions`, a text or a list of
    texts. The .json may have `split` and `id` as well, under the names in config.columns; the id is the key otherwise.

    config.root  folder that config.dataset starts from; the working folder by default

    The root of the data set is the folder that the shards have in common. Opens no image; reads each shard's headers.

    Raises DatasetError when a shard is missing or malformed, and when samples are not whole or contradict each other.
    """
    shards = find_shards(config)
    root = common_folder(shards)
    columns, homes, strays = _Columns(), {}, []
    for shard in shards:
        samples, others = _samples(shard)
        strays += [f"{shard.name}/{name}" for name in others]
        _require_new(samples, shard=shard, homes=homes)
        _require_whole(samples, shard)
        _read_samples(samples, shard=shard, root=root, config=config, columns=columns)
    given = _given_splits(columns, config)
    splits, rule = own_splits(columns.ids, config, given=given, hint="a field `split` in every .json")
    remarks = (f"{len(strays):,} members of shards are of no sample, by their names: {listed(strays)}",)
    return RetrievalDataset(
        name=shards_name(config, root),
        root=root,
        image_ids=columns.ids,
        image_files=columns.files,
        image_splits=splits,
        captions=[text for captions in columns.captions for text in captions],
        caption_images=np.repeat(np.arange(len(columns.ids)), [len(captions) for captions in columns.captions]),
        split_rule=rule,
        remarks=remarks if strays else (),
    )


def _samples(shard: Path) -> tuple[list[_Sample], list[str]]:
    """The samples of a shard, and the members whose names have no key or no ending."""
    samples, others = {}, []
    for name in member_index(shard):
        folder, slash, file = name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if not stem or not dot:
            others.append(name)
            continue
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        sample = samples.setdefault(key, _Sample(key))
        if ending in _IMAGES:
            sample.images.append(name)
        elif ending in ("txt", "json"):
            if ending in sample.texts:
                raise DatasetError(f"{shard}: the sample {key} has two .{ending} members; expected one at most.")
            sample.texts[ending] = name
    if not samples:
        raise DatasetError(f"{shard} has no samples; expected members such as 0001.jpg and 0001.txt.")
    return list(samples.values()), others


def _require_new(samples: list[_Sample], *, shard: Path, homes: dict[str, Path]) -> None:
    twice = [sample.key for sample in samples if sample.key in homes]
    if twice:
        raise DatasetError(
            f"{shard}: {len(twice):,} keys are also in other shards, first {twice[0]} in {homes[twice[0]]}; expected "
            f"each key in one shard only."
        )
    homes.update((sample.key, shard) for sample in samples)


def _require_whole(samples: list[_Sample], shard: Path) -> None:
    for what, keys, expected in (
        (
            "no image",
            [sample.key for sample in samples if not sample.images],
            "one .jpg, .jpeg, .png or .webp for each",
        ),
        ("more than one image", [sample.key for sample in samples if len(sample.images) > 1], "one for each"),
        ("no caption", [sample.key for sample in samples if not sample.texts], "a .txt or a .json for each"),
    ):
        if keys:
            raise DatasetError(f"{shard}: {len(keys):,} samples have {what}: {listed(keys)}; expected {expected}.")


def _read_samples(samples: list[_Sample], *, shard: Path, root: Path, config: DatasetConfig, columns: _Columns) -> None:
    index, folder = member_index(shard), shard.relative_to(root).as_posix()
    with shard.open("rb") as file:
        for sample in samples:
            contents = {}
            for ending, name in sample.texts.items():
                offset, size = index[name]
                file.seek(offset)
                contents[ending] = file.read(size)
            info = _Info(sample, shard=shard, content=contents.get("json"), config=config)
            columns.ids.append(info.id)
            columns.files.append(f"{folder}/{sample.images[0]}")
            columns.splits.append(info.split)
            columns.captions.append(_captions(sample, shard=shard, text=contents.get("txt"), info=info))


def _captions(sample: _Sample, *, shard: Path, text: bytes | None, info: "_Info") -> list[str]:
    if text is None or info.names_captions:
        return info.captions
    lines = [line.strip() for line in text_of(text, shard / sample.texts["txt"]).split("\n")]
    # A .txt without a line is an empty caption, which is left out with a remark as others are.
    return [line for line in lines if line] or [""]


class _Info:
    """What the .json of a sample says, or the absence of one."""

    def __init__(self, sample: _Sample, *, shard: Path, content: bytes | None, config: DatasetConfig):
        self._names, self._key, self._by_hash = config.column_names, sample.key, config.split == "hash"
        self._fields, self._path = {}, shard / sample.texts.get("json", sample.key)
        if content is not None:
            self._fields = json_of(content, self._path)
            if not isinstance(self._fields, dict):
                raise DatasetError(f"{self._path}: expected a JSON object, found {type(self._fields).__name__}.")
        for ours, name in self._names.items():
            asked = ours == "id" or (ours == "split" and not self._by_hash)
            if asked and name != ours and self._fields.get(name) is None:
                raise DatasetError(f"{self._path} has no `{name}`, which --columns says is the {ours}.")

    @property
    def names_captions(self) -> bool:
        """Whether the user says which field has the captions."""
        return self._names["caption"] != "caption"

    @property
    def id(self) -> str:
        """The image's id: the .json's, else the key."""
        value = self._fields.get(self._names["id"])
        if value is None:
            return self._key
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DatasetError(
                f"{self._path}: `{self._names['id']}` is {shortened(value)}; expected text or a whole number."
            )
        return str(value)

    @property
    def split(self) -> int | None:
        """Index in config.SPLITS; None where the .json has none, or it is not asked for."""
        value = self._fields.get(self._names["split"])
        if value is None or self._by_hash:
            return None
        code = split_code(value) if isinstance(value, str) else None
        if code is None:
            raise DatasetError(
                f"{self._path}: `{self._names['split']}` is {shortened(value)}; expected one of: {', '.join(SPLITS)}."
            )
        return code

    @property
    def captions(self) -> list[str]:
        """The captions in the .json. Raises DatasetError when it has none."""
        names = [self._names["caption"]] if self.names_captions else _CAPTION_FIELDS
        name = next((name for name in names if name in self._fields), None)
        if name is None:
            raise DatasetError(
                f"{self._path} has no `{'` or `'.join(names)}`, and there is no other caption; it has: "
                f"{listed(map(shortened, self._fields)) or 'nothing'}; name the field with --columns caption=NAME."
            )
        value = self._fields[name]
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DatasetError(f"{self._path}: `{name}` is {shortened(value)}; expected text or a list of texts.")
        return texts


def _given_splits(columns: _Columns, config: DatasetConfig) -> list[int] | None:
    """The splits of the samples, or None where none says its own. Raises DatasetError when only some do."""
    silent = [row for row, split in enumerate(columns.splits) if split is None]
    if len(silent) == len(columns.splits):
        return None
    if silent:
        first = listed(columns.files[row] for row in silent)
        raise DatasetError(
            f"{config.dataset}: {len(silent):,} of {len(columns.splits):,} samples do not say their split: {first}; "
            f"expected a field `{config.column_names['split']}` in every .json or in none, or use --split hash."
        )
    return columns.splits
