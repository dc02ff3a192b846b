import numpy as np
import pytest
from conftest import contents, write_cache

from clipret.cache import open_writer
from clipret.display import info_table
from clipret.errors import CacheError
from clipret.inspection import inspect_cache


def test_a_complete_cache_is_described(tmp_path):
    made = contents()
    info = inspect_cache(write_cache(tmp_path / "made.h5", made))
    assert info["complete"]
    assert info["fingerprint"] == made.fingerprint
    assert info["images"] == {"all": 60, "done": 60, "todo": 0, "unusable": 0, "width": 24}
    assert info["captions"]["all"] == info["captions"]["done"] == len(made.captions)
    assert info["captions"]["tokens"] == {"min": 5, "median": 5.0, "max": 5}
    assert info["per_image"] == {"min": 1, "mean": round(len(made.captions) / 60, 2), "max": 4}
    assert info["splits"]["train"]["images"] == 36
    assert sum(split["captions"] for split in info["splits"].values()) == len(made.captions)
    assert info["bytes"] == (tmp_path / "made.h5").stat().st_size


def test_an_unfinished_cache_with_problems_and_truncated_captions_is_described(tmp_path):
    made = contents()
    with open_writer(tmp_path / "made.h5", made) as writer:
        writer.write_images(0, features=np.zeros((20, 24), np.float16), problems={3: "not an image [really]"})
        writer.write_texts(0, features=np.zeros((4, 16), np.float16), tokens=np.array([5, 77, 78, 99_999]))
    info = inspect_cache(tmp_path / "made.h5")
    assert not info["complete"]
    assert info["images"] == {"all": 60, "done": 19, "todo": 40, "unusable": 1, "width": 24}
    assert info["captions"]["truncated"] == 2
    assert info["captions"]["tokens"]["max"] == np.iinfo(np.int16).max
    assert info["problems"] == {"3": {"file": "3.jpg", "reason": "not an image [really]"}}
    columns = [list(column.cells) for column in info_table(info).columns]
    shown = dict(zip(*columns, strict=True))
    assert shown["state"] == "INCOMPLETE; go on with: clipret extract --dataset made"
    assert shown["problem, row 3"] == r"3.jpg: not an image \[really]"


def test_a_cache_without_any_caption_done_is_described(tmp_path):
    with open_writer(tmp_path / "made.h5", contents()):
        pass
    assert inspect_cache(tmp_path / "made.h5")["captions"]["tokens"] is None


def test_no_cache_is_an_error(tmp_path):
    with pytest.raises(CacheError, match="there is no cache"):
        inspect_cache(tmp_path / "gone.h5")
