import numpy as np
import pytest

from clipret.cache import open_writer
from clipret.cache.inspection import inspect_cache
from clipret.errors import CacheError
from clipret.reporting.caches import info_sheets
from tests.conftest import contents, write_cache
from tests.helpers.joint_caches import write_members


def test_a_complete_cache_is_described(tmp_path):
    stored = contents()
    info = inspect_cache(write_cache(tmp_path / "made.h5", stored))
    assert info["complete"]
    assert info["fingerprint"] == stored.fingerprint
    assert info["images"] == {"all": 60, "done": 60, "todo": 0, "unusable": 0, "width": 24}
    assert info["captions"]["all"] == info["captions"]["done"] == len(stored.captions)
    assert info["captions"]["tokens"] == {"min": 5, "median": 5.0, "max": 5}
    assert info["per_image"] == {"min": 1, "mean": round(len(stored.captions) / 60, 2), "max": 4}
    assert info["splits"]["train"]["images"] == 36
    assert sum(split["captions"] for split in info["splits"].values()) == len(stored.captions)
    assert info["bytes"] == (tmp_path / "made.h5").stat().st_size


def test_an_unfinished_cache_with_problems_and_truncated_captions_is_described(tmp_path):
    stored = contents()
    with open_writer(tmp_path / "made.h5", stored) as writer:
        writer.write_images(0, features=np.zeros((20, 24), np.float16), problems={3: "not an image [really]"})
        writer.write_texts(0, features=np.zeros((4, 16), np.float16), tokens=np.array([5, 77, 78, 99_999]))
    info = inspect_cache(tmp_path / "made.h5")
    assert not info["complete"]
    assert info["images"] == {"all": 60, "done": 19, "todo": 40, "unusable": 1, "width": 24}
    assert info["captions"]["truncated"] == 2
    assert info["captions"]["tokens"]["max"] == np.iinfo(np.int16).max
    assert info["problems"] == {"3": {"file": "3.jpg", "reason": "not an image [really]"}}
    assert cells(info_sheets(info))["state"] == "INCOMPLETE; resume with: clipret extract --dataset made"


def cells(sheets):
    """A sheet of two columns as a dict."""
    (sheet,) = sheets
    return {name.text: value.text for name, value in sheet.rows}


def test_problems_are_counted_by_reason_and_listed_when_asked_for(tmp_path):
    path = tmp_path / "made [1].h5"
    problems = {
        1: "truncated file",
        3: "too elongated: 9000x1 would be resized to 2016000x224",
        30: "truncated file",
        40: "too elongated: 1x8000 would be resized to 224x1792000",
        41: "truncated file",
        59: "Truncated chunk [really] (3 bytes)",
    }
    with open_writer(path, contents()) as writer:
        writer.write_images(0, features=np.zeros((60, 24), np.float16), problems=problems)
    info = inspect_cache(path)
    assert info["reasons"] == {"truncated file": 3, "too elongated": 2, "Truncated chunk [really]": 1}
    assert cells(info_sheets(info))["problems"].splitlines() == [
        "truncated file: 3",
        "too elongated: 2",
        r"Truncated chunk [really]: 1",
        f"list them with: clipret info '{tmp_path}/made [1].h5' --problems",
    ]
    listed = cells(info_sheets(info, problems=True))
    assert "problems" not in listed
    assert listed["problem, row 59"] == r"59.jpg: Truncated chunk [really] (3 bytes)"
    assert [name for name in listed if name.startswith("problem")] == [f"problem, row {row}" for row in problems]


def test_a_cache_without_problems_shows_none(tmp_path):
    info = inspect_cache(write_cache(tmp_path / "made.h5"))
    assert not [name for name in cells(info_sheets(info)) if name.startswith(("problem", "truncated"))]
    asked = cells(info_sheets(info, problems=True, truncated=True))
    assert (asked["problems"], asked["truncated"]) == ("none", "none")


def test_a_cache_without_any_caption_done_is_described(tmp_path):
    with open_writer(tmp_path / "made.h5", contents()):
        pass
    assert inspect_cache(tmp_path / "made.h5")["captions"]["tokens"] is None


def test_no_cache_is_an_error(tmp_path):
    with pytest.raises(CacheError, match="there is no cache"):
        inspect_cache(tmp_path / "gone.h5")


def test_caches_side_by_side_are_described_together_and_each(tmp_path):
    paths = write_members(tmp_path)
    info = inspect_cache(",".join(map(str, paths)))
    assert info["members"] == [inspect_cache(path) for path in paths]
    assert info["bytes"] == sum(path.stat().st_size for path in paths)
    joint, *members = info_sheets(info)
    assert cells((joint,))["projections"] == "image 35 to 18; text 31 to 18"
    assert [cells((sheet,)) for sheet in members] == [cells(info_sheets(one)) for one in info["members"]]
