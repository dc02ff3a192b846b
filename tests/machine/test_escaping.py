"""Text of files and users as people see it."""

import json

import pytest

from clipret.machine.escaping import csv_cell, markdown_text, visible, visible_json, without_folders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two dogs, 2 × café 犬 🐕", "two dogs, 2 × café 犬 🐕"),
        ("a\n\tb", "a\n\tb"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\rb\x00\x7f", r"a\x0db\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2066c\u2028d\ufeff", r"a\u202eb\u2066c\u2028d\ufeff"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_written_out(text, expected):
    assert visible(text) == expected


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "a\u202eb", "\x7f", "犬"])
def test_json_stays_equal_and_holds_nothing_that_a_terminal_obeys(text):
    written = visible_json(json.dumps({"caption": text}, ensure_ascii=False))
    assert json.loads(written) == {"caption": text}
    assert visible(written) == written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-dog", "'-dog"),
        ("\tdog", "'\tdog"),
        (" =1+1", "' =1+1"),
        ("\u3000=1", "'\u3000=1"),
        ("\n=1", "'\n=1"),
        ("\ta", "'\ta"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-0.5", "-0.5"),
        (" -0.5", " -0.5"),
        ("+1e-3", "+1e-3"),
        ("a dog = an animal", "a dog = an animal"),
        ("a\x1b[2J", r"a\x1b[2J"),
        (-0.5, -0.5),
        (None, None),
    ],
)
def test_a_csv_cell_is_never_a_formula(value, expected):
    assert csv_cell(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/data/emoji.h5", "emoji.h5"),
        ("/home/me/my data/a b.h5", "a b.h5"),
        ("~/emoji.h5", "emoji.h5"),
        ("~me/x/emoji.h5", "emoji.h5"),
        ("../../home/me/emoji.h5", "emoji.h5"),
        (r"C:\Users\me\emoji.h5", "emoji.h5"),
        (r"\\server\share\emoji.h5", "emoji.h5"),
        ("hf:/home/me/model", "hf:model"),
        ("open_clip:local-dir:/home/me/model", "open_clip:local-dir:model"),
        ("pair:timm:/home/me/a+sentence-transformers:/srv/b", "pair:timm:a+sentence-transformers:b"),
        ("/home/me/my_losses.py:soft_margin", "my_losses.py:soft_margin"),
        ("--root=/home/me/coco", "--root=coco"),
        ("[Errno 2] No such file or directory: '/home/me/x/1.png'", "[Errno 2] No such file or directory: '1.png'"),
        ("/home/me/", ""),
        ("data/emoji.h5", "data/emoji.h5"),
        ("open_clip:ViT-B-16-SigLIP/webli", "open_clip:ViT-B-16-SigLIP/webli"),
        ("hf:openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("hash 70/10/20", "hash 70/10/20"),
        ("a photo of {}", "a photo of {}"),
    ],
)
def test_of_paths_that_say_where_things_are_the_last_part_stays(text, expected):
    assert without_folders(text) == expected


def test_nothing_of_a_text_is_markup():
    text = "<b>a</b> | *b* _c_ `d` [e](f) ~g~ #h &amp; $i$\nj\x1b"
    assert markdown_text(text) == (r"\<b\>a\</b\> \| \*b\* \_c\_ \`d\` \[e](f) \~g\~ \#h \&amp; \$i\$ j\\x1b")
