import tarfile

import numpy as np
import pytest

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import finish, split_by_hash
from clipret.datasets.shards import load_shards
from clipret.datasets.tars import member_index, read_member
from clipret.errors import DatasetError
from tests.helpers.own_data import write_shard

IMAGE = b"not opened"
RULE = "a sample is all members with the same name up to the first dot"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def load(pattern, **settings):
    config = DatasetConfig(str(pattern), **settings)
    return finish(load_shards(config), config)


def refusal(pattern, **settings):
    with pytest.raises(DatasetError) as caught:
        load(pattern, **settings)
    return str(caught.value)


def captions_of(dataset):
    return {
        image: [dataset.captions[text] for text in np.flatnonzero(dataset.caption_images == row)]
        for row, image in enumerate(dataset.image_ids)
    }


@pytest.fixture
def shards(tmp_path):
    """Two shards with every form of caption, a sample whose members are apart, and members of no use."""
    first = {
        "0001.jpg": IMAGE,
        "0002.PNG": IMAGE,
        "0001.txt": BYTE_ORDER_MARK + "a dog\r\n\r\n  an ünusual dog  \n".encode(),
        "0002.json": {"caption": "a cat", "split": "validation", "width": 3},
        "0002.cls": "7",
        "0001.json": {"caption": "not this one", "split": "train"},
    }
    second = {
        "b/0001.v2.json": {"caption": "not of this sample's .json"},
        "b/0001.webp": IMAGE,
        "b/0001.mask.png": IMAGE,
        "b/0001.json": {"captions": ["one", "two"], "split": "test", "id": 77},
        "b/0002.jpeg": IMAGE,
        "b/0002.json": {"captions": "three", "split": "testing", "id": None},
        "README": "made by hand",
        "b/.hidden.jpg": IMAGE,
    }
    write_shard(tmp_path / "data" / "part-00.tar", first)
    write_shard(tmp_path / "data" / "part-01.tar", second)
    return tmp_path / "data"


def test_samples_are_those_of_the_shards(shards):
    dataset = load(shards / "part-{00..01}.tar")
    assert dataset.name == "part"
    assert dataset.root == shards
    assert dataset.image_ids == ["0001", "0002", "77", "b/0002"]
    assert dataset.image_files == [
        "part-00.tar/0001.jpg",
        "part-00.tar/0002.PNG",
        "part-01.tar/b/0001.webp",
        "part-01.tar/b/0002.jpeg",
    ]
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "val", "test", "test"]
    assert dataset.split_rule == "given"
    assert captions_of(dataset) == {
        "0001": ["a dog", "an ünusual dog"],
        "0002": ["a cat"],
        "77": ["one", "two"],
        "b/0002": ["three"],
    }
    assert dataset.caption_ids == ["0001#0", "0001#1", "0002#0", "77#0", "77#1", "b/0002#0"]
    assert dataset.remarks == (
        "2 members of shards are of no sample, by their names: part-01.tar/README, part-01.tar/b/.hidden.jpg",
        "splits under other names: validation as val, testing as test",
    )
    assert dataset.missing_rows().tolist() == []


def test_an_image_is_read_by_the_name_that_the_data_set_gives(shards):
    dataset = load(shards / "part-*.tar")
    for file in dataset.image_files:
        shard, _, member = file.partition("/")
        assert read_member(dataset.root / shard, member) == IMAGE
        assert member_index(dataset.root / shard)[member][1] == len(IMAGE)


@pytest.mark.parametrize(
    "pattern",
    ["data/part-{00..01}.tar", "data/*.tar", "data/part-0[01].tar", "{data/part-00,data/part-01}.tar", "**/*.tar"],
)
def test_every_way_to_name_the_shards_gives_the_same(shards, monkeypatch, pattern):
    expected = load(shards / "part-{00..01}.tar")
    for settings, folder in (({}, shards.parent), ({"root": shards.parent}, shards)):
        monkeypatch.chdir(folder)
        dataset = load(pattern, **settings)
        assert dataset.annotation_sha256 == expected.annotation_sha256
        assert dataset.root.resolve() == shards


def test_one_shard_is_a_data_set_named_after_it(shards, monkeypatch):
    monkeypatch.chdir(shards)
    dataset = load("part-00.tar")
    assert (dataset.name, dataset.image_ids) == ("part-00", ["0001", "0002"])


def test_a_data_set_of_a_bare_glob_is_named_after_its_folder(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert load("*.tar").name == "data"


def test_a_file_whose_name_has_braces_is_that_file(tmp_path):
    write_shard(tmp_path / "{a,b}.tar", {"1.jpg": IMAGE, "1.txt": "x"})
    assert load(tmp_path / "{a,b}.tar").image_files == ["{a,b}.tar/1.jpg"]


def test_shards_in_folders_are_told_from_each_other(tmp_path):
    for name in "ab":
        write_shard(tmp_path / name / "x.tar", {f"{name}.jpg": IMAGE, f"{name}.txt": name})
    assert load(tmp_path / "{b,a}" / "x.tar").image_files == ["b/x.tar/b.jpg", "a/x.tar/a.jpg"]


def test_fields_go_by_the_names_that_the_user_gives(tmp_path):
    fields = {"alt": ["x", "y"], "caption": "not this", "part": "dev", "key": "k7"}
    path = write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, "1.json": fields, "1.txt": "not this"})
    dataset = load(path, columns="caption=alt,split=part,id=key")
    assert (dataset.captions, dataset.caption_ids) == (["x", "y"], ["k7#0", "k7#1"])
    assert dataset.image_splits.tolist() == [SPLITS.index("val")]


def test_without_splits_the_samples_are_split_by_a_hash_of_their_ids(tmp_path):
    members = {f"{number}.{ending}": "x" for number in range(200) for ending in ("jpg", "txt")}
    dataset = load(write_shard(tmp_path / "x.tar", members))
    assert dataset.split_rule == "hash 80/10/10 of the images' ids"
    expected = split_by_hash(dataset.image_ids, fractions={"train": 0.8, "val": 0.1, "test": 0.1})
    np.testing.assert_array_equal(dataset.image_splits, expected)


def test_adding_shards_moves_no_image_to_another_split(tmp_path):
    for shard in range(4):
        names = [f"{shard}-{number}.{ending}" for number in range(30) for ending in ("jpg", "txt")]
        write_shard(tmp_path / f"{shard}.tar", dict.fromkeys(names, "x"))
    whole, fewer = load(tmp_path / "{0..3}.tar"), load(tmp_path / "{3,1}.tar")
    splits = dict(zip(whole.image_ids, whole.image_splits, strict=True))
    assert [splits[image] for image in fewer.image_ids] == fewer.image_splits.tolist()


def test_a_split_by_hash_asks_no_sample_for_its_own(tmp_path):
    members = {"1.jpg": IMAGE, "1.json": {"caption": "x", "split": "???"}, "2.jpg": IMAGE, "2.txt": "y"}
    path = write_shard(tmp_path / "x.tar", members)
    assert load(path, split="hash").split_rule == "hash 80/10/10 of the images' ids"
    assert load(path, split="hash", columns="split=part").split_rule == "hash 80/10/10 of the images' ids"


def test_empty_captions_are_left_out_and_told(tmp_path):
    members = {
        "1.jpg": IMAGE,
        "1.txt": "\n \n",
        "2.jpg": IMAGE,
        "2.json": {"caption": ["x", ""]},
        "3.jpg": IMAGE,
        "3.json": {"caption": []},
    }
    dataset = load(write_shard(tmp_path / "x.tar", members))
    assert captions_of(dataset) == {"1": [], "2": ["x"], "3": []}
    assert dataset.remarks == (
        "left out 2 empty captions, of 1, 2",
        "2 images without a caption, in the gallery only",
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"1.txt": "x", "2.img": IMAGE, "2.cap": "y", "d/3.cls": "4"},
            f"no sample has an image; {RULE}, and what follows has to be .jpg, .jpeg, .png or .webp: found .cap, .cls, "
            f".img, .txt.",
        ),
        (
            {"1.jpg": IMAGE, "1.PNG": IMAGE, "1.txt": "x"},
            f"1 samples have more than one image, first 1: 1.jpg, 1.PNG; {RULE}: expected one image in each.",
        ),
        (
            {"v1.0.jpg": IMAGE, "v1.0.txt": "x", "v1.1.jpg": IMAGE, "v1.1.txt": "y"},
            f"1 samples have more than one image, first v1: v1.0.jpg, v1.1.jpg; {RULE}: expected one image in each.",
        ),
        (
            {"1.jpg": IMAGE, "1.cls": "3", "2.jpg": IMAGE},
            f"none of 2 samples has a caption; {RULE}, and expected is a .txt or .json beside the image: found .cls, "
            f".jpg.",
        ),
        (
            {"1.jpg": IMAGE, "1.txt": "x", "1.TXT": "y"},
            f"1 samples have more than one .txt, first 1: 1.txt, 1.TXT; {RULE}: expected one .txt in each.",
        ),
        (
            {"a.1.jpg": IMAGE, "a.2.txt": "x"},
            f"1 samples have an image and a caption of other names, first a: a.1.jpg, a.2.txt; {RULE}: expected no "
            f"further numbers, or the same.",
        ),
        (
            {"1.input.jpg": IMAGE, "1.a.json": {"caption": "x"}, "1.b.json": {"caption": "y"}},
            f"1 samples have more than one .json, first 1: 1.a.json, 1.b.json; {RULE}: expected one .json in each.",
        ),
    ],
)
def test_samples_of_which_none_is_whole_are_one_clear_line(tmp_path, members, message):
    path = write_shard(tmp_path / "x.tar", members)
    assert refusal(path) == f"{path}: {message}"


def numbered(*members):
    """Members of four samples: their names with the number put in, and contents."""
    return {name.format(number): content for number in range(4) for name, content in members}


@pytest.mark.parametrize(
    ("image", "text", "content"),
    [
        ("track{} v1.0.jpg", "track{} v1.0.txt", "x"),
        ("s{}.input.JPG", "s{}.outputs.txt", "x"),
        ("s{}.jpg", "s{}.en.json", {"caption": "x"}),
        ("s{}.jpg.png", "s{}.txt", "x"),
    ],
)
def test_names_with_more_dots_are_read_by_their_last_endings(tmp_path, image, text, content):
    path = write_shard(tmp_path / "x.tar", numbered((image, IMAGE), (text, content)))
    dataset = load(path)
    files = [f"x.tar/{image.format(number)}" for number in range(4)]
    assert dataset.image_files == files
    assert captions_of(dataset) == {image.format(number).partition(".")[0]: ["x"] for number in range(4)}
    assert dataset.remarks == (
        f"4 samples have dots in their names; {RULE}, and these were read by their last endings: {', '.join(files)}",
    )


def test_dotted_members_beside_plain_ones_are_of_no_concern(tmp_path):
    others = {"1.mask.png": IMAGE, "1.meta.json": "no JSON", "1.ocr.txt": "y", "1.b.mask.png": IMAGE}
    dataset = load(write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, "1.txt": "x", **others}))
    assert (captions_of(dataset), dataset.image_files, dataset.remarks) == ({"1": ["x"]}, ["x.tar/1.jpg"], ())


@pytest.mark.parametrize(
    ("members", "remarks"),
    [
        ({"2.jpg": IMAGE}, ()),
        ({"2.jpg": IMAGE, "2.json": {"width": 3}}, ()),
        ({"2.jpg": IMAGE, "2.json": {"caption": None}}, ("left out 1 empty caption, of 2",)),
        ({"2.jpg": IMAGE, "2.json": {"captions": [None]}}, ("left out 1 empty caption, of 2",)),
        ({"2.jpg": IMAGE, "2.txt": "\u200b"}, ("left out 1 empty caption, of 2",)),
    ],
)
def test_one_sample_without_caption_stays_in_the_gallery(tmp_path, members, remarks):
    dataset = load(write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, "1.txt": "x", **members}))
    assert captions_of(dataset) == {"1": ["x"], "2": []}
    assert dataset.remarks == (*remarks, "1 image without a caption, in the gallery only")


def test_a_null_in_a_list_of_captions_is_skipped_with_a_remark(tmp_path):
    members = {"1.jpg": IMAGE, "1.json": {"caption": ["x", None, "y"]}}
    dataset = load(write_shard(tmp_path / "x.tar", members))
    assert (captions_of(dataset), dataset.remarks) == ({"1": ["x", "y"]}, ("left out 1 empty caption, of 1",))


def test_one_sample_without_an_image_is_left_out_with_a_remark(tmp_path):
    members = {"1.jpg": IMAGE, "1.txt": "x", "2.txt": "y", "3.heic": IMAGE, "3.txt": "z"}
    dataset = load(write_shard(tmp_path / "x.tar", members))
    assert captions_of(dataset) == {"1": ["x"]}
    assert dataset.remarks == (
        "2 samples have no image, .jpg, .jpeg, .png or .webp, and were left out: x.tar/2, x.tar/3",
    )


def test_a_shard_without_samples_beside_others_is_told(tmp_path):
    write_shard(tmp_path / "0.tar", {})
    write_shard(tmp_path / "1.tar", {"1.jpg": IMAGE, "1.txt": "x"})
    dataset = load(tmp_path / "*.tar")
    assert (captions_of(dataset), dataset.remarks) == ({"1": ["x"]}, ("1 shards have no samples: 0.tar",))


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_gigabytes_of_captions_are_not_read(tmp_path, ending):
    info = tarfile.TarInfo(f"1.{ending}")
    info.size = 3 << 30
    path = write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE})
    # Over the end of what is there: the image's header, its block, and the end.
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(info.tobuf())
        file.truncate(4 << 30)
    assert refusal(path) == (
        f"{path}/1.{ending} has 3,221,225,472 bytes, over 16,777,216; expected the captions of one image."
    )


def test_an_image_alone_among_samples_with_splits_is_left_out_with_a_remark(tmp_path):
    members = {"1.jpg": IMAGE, "1.json": {"caption": "x", "split": "test"}, "2.jpg": IMAGE}
    path = write_shard(tmp_path / "x.tar", members)
    dataset = load(path)
    assert (captions_of(dataset), dataset.split_rule) == ({"1": ["x"]}, "given")
    assert dataset.remarks == ("1 samples have no .json that says their split, and were left out: x.tar/2.jpg",)
    assert captions_of(load(path, split="hash")) == {"1": ["x"], "2": []}


@pytest.mark.parametrize("members", [{}, {"README": "x", ".a.jpg": IMAGE}])
def test_a_shard_without_samples_is_refused(tmp_path, members):
    path = write_shard(tmp_path / "x.tar", members)
    assert refusal(path) == f"{path} has no samples; expected members such as 0001.jpg and 0001.txt."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1.txt", b"a caf\xe9", "/1.txt is not UTF-8 text: byte 5 is 0xe9; save it as UTF-8 (iconv -t utf-8)."),
        (
            "1.txt",
            BYTE_ORDER_MARK + b"a caf\xe9",
            "/1.txt is not UTF-8 text: byte 8 is 0xe9; save it as UTF-8 (iconv -t utf-8).",
        ),
        (
            "1.json",
            b'{"caption": "\xe9"}',
            "/1.json is not UTF-8 text: byte 13 is 0xe9; save it as UTF-8 (iconv -t utf-8).",
        ),
        (
            "1.json",
            b'{"caption": ',
            "/1.json is not JSON: expecting value, line 1, column 13 (byte 12); fix it, or download it again.",
        ),
        ("1.json", b"[1]", "/1.json: expected a JSON object, found list."),
        (
            "1.json",
            {"text": "x", "url": "y"},
            "/1.json has no `caption` or `captions`, and there is no other caption; it has: 'text', 'url'; name the "
            "field with --columns caption=NAME.",
        ),
        ("1.json", {"captions": ["x", 3]}, "/1.json: `captions` is ['x', 3]; expected text or a list of texts."),
        ("1.json", {"caption": {"en": "x"}}, "/1.json: `caption` is {'en': 'x'}; expected text or a list of texts."),
        (
            "1.json",
            {"caption": "x", "split": "everything"},
            "/1.json: `split` is 'everything'; expected one of: train, val, test, restval.",
        ),
        ("1.json", {"caption": "x", "split": 1}, "/1.json: `split` is 1; expected one of: train, val, test, restval."),
        ("1.json", {"caption": "x", "id": ""}, "/1.json: `id` is ''; expected text or a whole number."),
        ("1.json", {"caption": "x", "id": 1.5}, "/1.json: `id` is 1.5; expected text or a whole number."),
        ("1.json", {"caption": "x", "id": True}, "/1.json: `id` is True; expected text or a whole number."),
    ],
)
def test_a_malformed_member_is_one_clear_line_with_shard_and_name(tmp_path, name, content, message):
    path = write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, name: content})
    assert refusal(path) == f"{path}{message}"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "caption=alt",
            "has no `alt`, and there is no other caption; it has: 'caption'; name the field with --columns "
            "caption=NAME.",
        ),
        ("split=part", "has no `part`, which --columns says is the split."),
        ("id=key", "has no `key`, which --columns says is the id."),
    ],
)
def test_a_field_that_the_user_names_has_to_be_there(tmp_path, columns, message):
    path = write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, "1.json": {"caption": "x"}, "1.txt": "y"})
    assert refusal(path, columns=columns) == f"{path}/1.json {message}"


def test_splits_of_some_samples_only_are_refused(tmp_path):
    members = {}
    for number in range(8):
        members[f"{number}.jpg"] = IMAGE
        members[f"{number}.json"] = {"caption": "x"} | ({"split": "train"} if number == 3 else {})
    path = write_shard(tmp_path / "x.tar", members)
    assert refusal(path) == (
        f"{path}: 7 of 8 samples do not say their split: x.tar/0.jpg, x.tar/1.jpg, x.tar/2.jpg, x.tar/4.jpg, "
        f"x.tar/5.jpg, ...; expected a field `split` in every .json or in none, or use --split hash."
    )


def test_given_splits_that_are_not_there_are_refused(tmp_path):
    path = write_shard(tmp_path / "x.tar", {"1.jpg": IMAGE, "1.txt": "x"})
    assert refusal(path, split="given") == (
        f"--split is 'given', and {path} does not say which split its images are in; expected a field `split` in every "
        f".json, or shards named after splits, or use --split hash."
    )


def test_a_key_in_two_shards_is_refused(tmp_path):
    for name in "ab":
        write_shard(
            tmp_path / f"{name}.tar", {"1.jpg": IMAGE, "1.txt": name, f"2{name}.jpg": IMAGE, f"2{name}.txt": "x"}
        )
    assert refusal(tmp_path / "*.tar") == (
        f"{tmp_path}/b.tar: 1 keys are also in other shards, first 1 in {tmp_path}/a.tar; expected each key in "
        f"one shard only."
    )


def test_an_id_of_two_samples_is_refused(tmp_path):
    members = {"1.jpg": IMAGE, "1.txt": "x", "2.jpg": IMAGE, "2.json": {"caption": "y", "id": 1}}
    assert refusal(write_shard(tmp_path / "x.tar", members)) == (
        "data set 'x': 1 image ids are used by more than one image: 1; every image needs its own id."
    )


def test_a_member_that_leads_out_of_the_shard_is_refused(tmp_path):
    for name in ("../1", "/1"):
        path = write_shard(tmp_path / "x.tar", {f"{name}.jpg": IMAGE, f"{name}.txt": "x"})
        assert refusal(path) == (
            f"{path}: the member {name}.jpg points outside the shard; expected names without a leading / and `..`."
        )


def test_a_shard_that_is_cut_short_is_named(shards):
    path = shards / "part-01.tar"
    path.write_bytes(path.read_bytes()[:1536])
    assert refusal(shards / "*.tar") == f"{path} is cut short or damaged at byte 1,536; download it again."


EXPECTED = "expected the path of a .tar, a glob as data/*.tar, or a range as data/{00000..00012}.tar"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "part-{00..07}.tar",
            "6 of 8 shards of part-{00..07}.tar are not there: ROOT/part-02.tar, ROOT/part-03.tar, ROOT/part-04.tar, "
            "ROOT/part-05.tar, ROOT/part-06.tar, ...; fetch them, or leave them out of the pattern.",
        ),
        (
            "none.tar",
            "1 of 1 shards of none.tar are not there: ROOT/none.tar; fetch them, or leave them out of the pattern.",
        ),
        ("none-*.tar", f"there is no shard ROOT/none-*.tar; {EXPECTED}."),
        ("part-{00..01.tar", f"part-{{00..01.tar: its braces do not fit together; {EXPECTED}."),
        ("part-00}.tar", f"part-00}}.tar: its braces do not fit together; {EXPECTED}."),
        ("{" * 3000 + "}" * 3000 + ".tar", None),
        ("part-{00,00}.tar", f"part-{{00,00}}.tar matches the same shard more than once; {EXPECTED}."),
        ("{0..99999999999}.tar", f"{{0..99999999999}}.tar matches more than 100,000 shards; {EXPECTED}."),
        ("{0..9999}{0..9999}.tar", f"{{0..9999}}{{0..9999}}.tar matches more than 100,000 shards; {EXPECTED}."),
        (
            "part-00.tar.gz",
            "ROOT/part-00.tar.gz: not a .tar by its name (images are read from anywhere in a shard, so decompress it "
            f"first); {EXPECTED}.",
        ),
        ("part-00.{tar,txt}", f"ROOT/part-00.txt: not a .tar by its name; {EXPECTED}."),
        ("x" * 300 + ".tar", None),
        ("nul\0.tar", None),
        ("nul\0*.tar", None),
    ],
)
def test_a_pattern_that_stands_for_no_shards_is_one_clear_line(shards, pattern, message):
    refused = refusal(pattern, root=shards)
    assert "\n" not in refused
    assert message is None or refused == message.replace("ROOT", str(shards))


def test_shards_in_a_folder_that_is_called_tar_are_refused(tmp_path):
    write_shard(tmp_path / "a.tar" / "1.tar", {"1.jpg": IMAGE, "1.txt": "x"})
    write_shard(tmp_path / "2.tar", {"2.jpg": IMAGE, "2.txt": "x"})
    assert refusal("{a.tar/1,2}.tar", root=tmp_path) == (
        f"1 shards are in folders that are called .tar themselves: {tmp_path}/a.tar/1.tar; rename these."
    )
    assert load(tmp_path / "a.tar" / "1.tar").image_files == ["1.tar/1.jpg"]


def test_shards_from_here_and_from_the_top_do_not_mix(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert refusal(f"{{part-00,{shards}/part-01}}.tar") == (
        "part-00.tar and other shards mix absolute and relative paths; use one kind."
    )


def test_captions_in_several_fields_are_read_in_the_order_of_their_names(tmp_path):
    members = {"a.jpg": b"", "a.json": {"one": "first", "two": ["second", "third"]}}
    path = write_shard(tmp_path / "x.tar", members)
    assert load(path, columns="caption=two,caption=one").captions == ["second", "third", "first"]
    assert refusal(path, columns="caption=one,caption=three") == (
        f"{path}/a.json has the captions `one`, and no `three`; name the fields that all samples have with --columns "
        "caption=NAME."
    )


@pytest.mark.parametrize(
    ("members", "columns", "message"),
    [
        (
            {"a.jpg": b"", "a.json": {"caption": "one", "captions": ["two"]}},
            "",
            "a.json has the captions `caption` and `captions`, and more than one; name the fields that all samples "
            "have with --columns caption=NAME.",
        ),
        (
            {"a.jpg": b"", "a.json": {"one": "first"}, "b.jpg": b"", "b.txt": "second"},
            "caption=one",
            "b.txt has captions, and its sample no .json, which --columns says they are in; leave --columns "
            "caption=NAME out, or the .txt.",
        ),
    ],
)
def test_captions_that_would_be_lost_are_refused(tmp_path, members, columns, message):
    path = write_shard(tmp_path / "x.tar", members)
    assert refusal(path, columns=columns) == f"{path}/{message}"
