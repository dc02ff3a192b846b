"""The Python of the page on exports that needs an exported folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipret import cli
from clipret.exports.targets import head_reader, onnx_reader
from tests.helpers.exported import open_here
from tests.helpers.pages import DOCS, blocks, commands

PAGE = DOCS / "export.md"


def test_the_reader_of_heads_is_shown_as_it_is():
    [shown] = [block for block in blocks("py", PAGE) if "def read_head" in block]
    assert shown == Path(head_reader.__file__).read_text(encoding="utf-8")


@pytest.mark.ci
def test_the_python_that_embeds_from_the_graphs_gives_what_their_reader_gives(workplace, monkeypatch, capsys):
    open_here(monkeypatch)
    [words] = [words for words in commands("clipret", PAGE) if words[:1] == ["export"] and "onnx" in words]
    assert cli.main(words) == 0
    Path("photos").mkdir()
    Image.linear_gradient("L").resize((120, 91)).save("photos/0.png")
    by_hand, by_reader = {}, {"Image": Image}
    [written_out] = [block for block in blocks("py", PAGE) if "InferenceSession" in block]
    exec(compile(written_out, PAGE.name, "exec"), by_hand)
    assert capsys.readouterr().out.strip().endswith("]]")
    [short] = [block for block in blocks("py", PAGE) if "from reader import" in block]
    monkeypatch.syspath_prepend("exported-onnx")
    monkeypatch.delitem(sys.modules, "reader", raising=False)
    exec(compile(short, PAGE.name, "exec"), by_reader)
    monkeypatch.delitem(sys.modules, "reader")
    scores = by_hand["image_embeds"] @ by_hand["text_embeds"].T
    np.testing.assert_allclose(by_reader["scores"], scores, atol=1e-6, rtol=0)
    reader = onnx_reader.Reader("exported-onnx")
    with Image.open("photos/0.png") as image:
        np.testing.assert_allclose(reader.embed_images([image]), by_hand["image_embeds"], atol=1e-6, rtol=0)
