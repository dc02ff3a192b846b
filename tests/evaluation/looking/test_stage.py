"""What there is to look at in a cache."""

import re

import numpy as np
import pytest

from clipret import LookConfig, look
from clipret.cache import open_writer
from clipret.errors import CacheError
from tests.conftest import contents, digests_of
from tests.helpers.joint_caches import write_members


def test_a_cache_without_a_readable_image_is_one_line(tmp_path):
    made, path = contents(images=3), tmp_path / "c.h5"
    texts = len(made.captions)
    with open_writer(path, made) as writer:
        features, digests = np.zeros((3, made.width("image")), np.float16), digests_of(made.image_ids)
        writer.write_images(0, features=features, problems=dict.fromkeys(range(3), "broken"), digests=digests)
        features = np.ones((texts, made.width("text")), np.float16)
        writer.write_texts(0, features=features, tokens=np.full(texts, 5))
    with pytest.raises(CacheError) as refused:
        look(LookConfig(cache=path, out=tmp_path / "look.html"))
    assert str(refused.value) == (
        f"{path} has no images with a feature, and so nothing to look at; which images could not be read is said by: "
        f"clipret info {path} --problems"
    )


def test_a_page_on_caches_side_by_side_is_called_after_all_of_them(tmp_path):
    one, two = write_members(tmp_path)
    look(LookConfig(cache=f"{one},{two}", out=tmp_path / "look.html", device="cpu"))
    heading = re.search("<h1>(.*?)</h1>", (tmp_path / "look.html").read_text(encoding="utf-8"))[1]
    assert heading == "The data of a.h5, b.h5"
