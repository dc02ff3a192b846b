"""WebDataset shards: tar files in which an image and its captions have the same name but for the ending."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits, renamed_splits, split_code
from clipret.datasets.captions import require_short
from clipret.datasets.parsing import counted, json_of, listed, shortened, text_of
from clipret.datasets.shard_files import common_folder, find_shards, named_splits, shards_name
from clipret.datasets.shard_samples import IMAGE_ENDINGS, RULE, Sample, Samples, read_samples
from clipret.datasets.tars import member_index
from clipret.errors import DatasetError

# The fields of a .json that hold captions, unless the user names another.
_CAPTION_FIELDS = ("caption", "captions")


@dataclass
class _Columns:
    """What the samples say, in the order of the shards and, within one, of each key's first member."""

    ids: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    splits: list[int | None] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    # Rows of samples without .txt and .json, and why a .json has no captions.
    bare: set[int] = field(default_factory=set)
    lacking: list[str] = field(default_factory=list)
    # As the samples have them.
    split_names: dict[str, None] = field(default_factory=dict)


def load_shards(
    config: DatasetConfig,
    *,
    shards: list[Path] | None = None,
    name: str | None = None,
    remarks: tuple[str, ...] = (),
) -> RetrievalDataset:
    """Read the samples of the shards that config.dataset names: a file, a glob, or a pattern with braces.

    A sample is every member with the same name up to the first dot after the last slash, wherever they are in the
    shard. Its image is a .jpg, .jpeg, .png or .webp. Its captions are the lines of its .txt that are not blank; without
    a .txt, or where config.columns names the field, what its .json has as `caption` or `captions`, a text or a list of
    texts. The .json may have `split` and `id` as well, under the names in config.columns; the id is the key otherwise.
    An image without captions stays in the gallery; captions without an image are left out.

    Where no .json says a split, that of shards whose names or folders do, as train-0001.tar or train/0001.tar, and not
    all the same one; else 80/10/10 by a hash of the id.

    config.root  folder that config.dataset starts from; the working folder by default
    shards       the shards themselves, where config.dataset is the folder that they are in
    name         of the data set; by default that of the shards
    remarks      to be said before all others

    The root of the data set is the folder that the shards have in common. Opens no image; reads each shard's headers.

    Raises DatasetError when a shard is missing or malformed, when no sample has an image or none a caption, and when
    samples contradict each other.
    """
    shards = find_shards(config) if shards is None else shards
    root = common_folder(shards)
    columns, homes, left = _Columns(), {}, _LeftOut()
    for shard in shards:
        members = read_samples(shard)
        samples = [sample for sample in members.samples if sample.image]
        left.add(members, shard=shard)
        _require_new(samples, shard=shard, homes=homes)
        _read_samples(samples, shard=shard, root=root, config=config, columns=columns)
    _require_some(columns, left, config=config)
    columns = _drop_splitless(columns, left)
    codes, names = _sample_splits(columns, config), columns.split_names
    if codes is None:
        codes, names = named_splits(columns.files)
    splits, rule = own_splits(
        columns.ids, config, codes=codes, hint="a field `split` in every .json, or shards named after splits"
    )
    return RetrievalDataset(
        name=name or shards_name(config, root),
        root=root,
        image_ids=columns.ids,
        image_files=columns.files,
        image_splits=splits,
        captions=[text for captions in columns.captions for text in captions],
        caption_images=np.repeat(np.arange(len(columns.ids)), [len(captions) for captions in columns.captions]),
        split_rule=rule,
        remarks=(*remarks, *left.remarks, *(renamed_splits(names) if rule == "given" else ())),
    )


class _LeftOut:
    """What of the shards is in no sample, or is not read as it is named."""

    def __init__(self):
        self._strays, self._imageless, self._dotted, self._empty = [], [], [], []
        self.splitless: list[str] = []
        self.endings: set[str] = set()

    def add(self, members: Samples, *, shard: Path) -> None:
        """Take note of one shard's."""
        self._strays += [f"{shard.name}/{name}" for name in members.strays]
        self._imageless += [f"{shard.name}/{sample.key}" for sample in members.samples if not sample.image]
        self._dotted += [f"{shard.name}/{sample.image}" for sample in members.samples if sample.image and sample.dotted]
        self.endings |= members.endings
        self._empty += [] if members.samples else [shard.name]

    @property
    def remarks(self) -> tuple[str, ...]:
        """In words; none where there is nothing."""
        counted = (
            ("shards have no samples", self._empty),
            ("members of shards are of no sample, by their names", self._strays),
            (f"samples have no image, {IMAGE_ENDINGS}, and were left out", self._imageless),
            ("samples have no .json that says their split, and were left out", self.splitless),
            (f"samples have dots in their names; {RULE}, and these were read by their last endings", self._dotted),
        )
        return tuple(f"{len(names):,} {what}: {listed(names)}" for what, names in counted if names)


def _require_new(samples: list[Sample], *, shard: Path, homes: dict[str, Path]) -> None:
    twice = [sample.key for sample in samples if sample.key in homes]
    if twice:
        raise DatasetError(
            f"{shard}: {len(twice):,} keys are also in other shards, first {twice[0]} in {homes[twice[0]]}; expected "
            f"each key in one shard only."
        )
    homes.update((sample.key, shard) for sample in samples)


def _require_some(columns: _Columns, left: _LeftOut, *, config: DatasetConfig) -> None:
    if not left.endings:
        raise DatasetError(f"{config.dataset} has no samples; expected members such as 0001.jpg and 0001.txt.")
    endings = listed(sorted(f".{ending}" for ending in left.endings))
    if not columns.ids:
        raise DatasetError(
            f"{config.dataset}: no sample has an image; {RULE}, and what follows has to be {IMAGE_ENDINGS}: found "
            f"{endings}."
        )
    if not any(columns.captions):
        if columns.lacking:
            raise DatasetError(columns.lacking[0])
        raise DatasetError(
            f"{config.dataset}: none of {counted(len(columns.ids), 'sample')} has a caption; {RULE}, and expected is a "
            f".txt or .json beside the image: found {endings}."
        )


def _read_samples(samples: list[Sample], *, shard: Path, root: Path, config: DatasetConfig, columns: _Columns) -> None:
    index, folder = member_index(shard), shard.relative_to(root).as_posix()
    with shard.open("rb") as file:
        for sample in samples:
            contents = {}
            for ending, name in sample.texts.items():
                offset, size = index[name]
                require_short(shard / name, size)
                file.seek(offset)
                contents[ending] = file.read(size)
            info = _Info(sample, shard=shard, content=contents.get("json"), config=config)
            if not sample.texts:
                columns.bare.add(len(columns.ids))
            columns.ids.append(info.id)
            columns.files.append(f"{folder}/{sample.image}")
            columns.splits.append(info.split)
            columns.split_names |= {} if info.split is None else {info.split_name: None}
            columns.captions.append(_captions(sample, shard=shard, text=contents.get("txt"), info=info))
            if info.lacking:
                columns.lacking.append(info.lacking)


def _captions(sample: Sample, *, shard: Path, text: bytes | None, info: "_Info") -> list[str]:
    if text is not None and info.names_captions and "json" not in sample.texts:
        path = shard / sample.texts["txt"]
        raise DatasetError(
            f"{path} has captions, and its sample no .json, which --columns says they are in; leave --columns "
            f"caption=NAME out, or the .txt."
        )
    if text is None or info.names_captions:
        return info.captions
    lines = [line.strip() for line in text_of(text, shard / sample.texts["txt"]).split("\n")]
    # A .txt without a line is an empty caption, which is left out with a remark as others are.
    return [line for line in lines if line] or [""]


class _Info:
    """What the .json of a sample says, or the absence of one."""

    def __init__(self, sample: Sample, *, shard: Path, content: bytes | None, config: DatasetConfig):
        self._names, self._key, self._by_hash = config.column_names, sample.key, config.split == "hash"
        self._fields, self._path = {}, shard / sample.texts.get("json", sample.key)
        self._read, self.lacking = content is not None, None
        if content is not None:
            self._fields = json_of(content, self._path)
            if not isinstance(self._fields, dict):
                raise DatasetError(f"{self._path}: expected a JSON object, found {type(self._fields).__name__}.")
        for ours, (name, *_) in self._names.items():
            asked = ours == "id" or (ours == "split" and not self._by_hash)
            if sample.texts and asked and name != ours and self._fields.get(name) is None:
                raise DatasetError(f"{self._path} has no `{name}`, which --columns says is the {ours}.")

    @property
    def names_captions(self) -> bool:
        """Whether the user says which field has the captions."""
        return self._names["caption"] != ("caption",)

    @property
    def id(self) -> str:
        """The image's id: the .json's, else the key."""
        (name,) = self._names["id"]
        value = self._fields.get(name)
        if value is None:
            return self._key
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DatasetError(f"{self._path}: `{name}` is {shortened(value)}; expected text or a whole number.")
        return str(value)

    @property
    def split_name(self):
        """The split as the .json has it."""
        return self._fields.get(self._names["split"][0])

    @property
    def split(self) -> int | None:
        """Index in config.SPLITS; None where the .json has none, or it is not asked for."""
        (name,) = self._names["split"]
        value = self.split_name
        if value is None or self._by_hash:
            return None
        code = split_code(value) if isinstance(value, str) else None
        if code is None:
            raise DatasetError(f"{self._path}: `{name}` is {shortened(value)}; expected one of: {', '.join(SPLITS)}.")
        return code

    @property
    def captions(self) -> list[str]:
        """The captions in the .json; none, and why in `lacking`, where it has no such field."""
        names = self._names["caption"] if self.names_captions else _CAPTION_FIELDS
        here = [name for name in names if name in self._fields]
        lacks = [name for name in names if name not in here] if self.names_captions or not here else []
        if here and (lacks or (len(here) > 1 and not self.names_captions)):
            what = f"no `{'` or `'.join(lacks)}`" if lacks else "more than one"
            raise DatasetError(
                f"{self._path} has the captions `{'` and `'.join(here)}`, and {what}; name the fields that all samples "
                f"have with --columns caption=NAME."
            )
        if lacks:
            if self._read or self.names_captions:
                self.lacking = (
                    f"{self._path} has no `{'` or `'.join(lacks)}`, and there is no other caption; it has: "
                    f"{listed(map(shortened, self._fields)) or 'nothing'}; name the field with --columns caption=NAME."
                )
            return []
        return [text for name in (here if self.names_captions else here[:1]) for text in self._texts(name)]

    def _texts(self, name: str) -> list[str]:
        value = self._fields[name]
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str | None) for text in texts):
            raise DatasetError(f"{self._path}: `{name}` is {shortened(value)}; expected text or a list of texts.")
        # A null is an empty caption, which is left out with a remark as others are.
        return [text or "" for text in texts]


def _drop_splitless(columns: _Columns, left: _LeftOut) -> _Columns:
    """The rows without those of an image alone, where all others say their split."""
    silent = {row for row, split in enumerate(columns.splits) if split is None}
    if len(silent) == len(columns.ids) or not silent <= columns.bare:
        return columns
    left.splitless += [columns.files[row] for row in sorted(silent)]
    kept = [row for row in range(len(columns.ids)) if row not in silent]
    names = ("ids", "files", "splits", "captions")
    return _Columns(
        **{name: [getattr(columns, name)[row] for row in kept] for name in names}, split_names=columns.split_names
    )


def _sample_splits(columns: _Columns, config: DatasetConfig) -> list[int] | None:
    """The splits of the samples, or None where none says its own. Raises DatasetError when only some do."""
    silent = [row for row, split in enumerate(columns.splits) if split is None]
    if len(silent) == len(columns.splits):
        return None
    if silent:
        first = listed(columns.files[row] for row in silent)
        raise DatasetError(
            f"{config.dataset}: {len(silent):,} of {len(columns.splits):,} samples do not say their split: {first}; "
            f"expected a field `{config.column_names['split'][0]}` in every .json or in none, or use --split hash."
        )
    return columns.splits
