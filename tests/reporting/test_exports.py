"""What export says, and what a measured run is good for next."""

import pytest

from clipret.reporting.exports import export_summary
from clipret.reporting.summaries import use_of_run

WAY = {
    "way": "clip.load",
    "remark": "it rounds",
    "opened": True,
    "texts": 32,
    "images": 16,
    "difference": 4.66e-5,
    "preprocessing": {"differ": 3, "largest": 0.3931},
}
RESULT = {
    "out": "my exports/clip",
    "to": "clip",
    "run": "0001-margin-linear",
    "head": {"file": "head.safetensors"},
    "files": {"README.md": 7948, "clip.pt": 57_101_602},
    "verified": [WAY, {**WAY, "way": "load_state_dict", "remark": "", "difference": 3.2e-7}],
    "cached": {"dtype": "float32", "difference": {"text": 1e-7}},
    "images_missing": None,
    "remarks": [],
    "seconds": 12.34,
}


def test_the_folder_its_files_each_way_and_the_next_step_are_said():
    assert export_summary(RESULT).splitlines() == [
        "my exports/clip has 0001-margin-linear for clip, in 12.3 s:",
        "  README.md  (7.9 kB)",
        "  clip.pt  (57.1 MB)",
        "Opened with clip.load: 32 captions and 16 images, embeddings differ by at most 4.7e-05 from clipret's "
        "(it rounds).",
        "Opened with load_state_dict: 32 captions and 16 images, embeddings differ by at most 3.2e-07 from clipret's.",
        "By the library's own preprocessing alone, 3 of 16 image files give other embeddings, by at most 0.4; see "
        "README.md.",
        "Next: 'my exports/clip/README.md' says how to load it; before you publish it, fill in the licences there",
    ]


def test_preprocessing_that_is_the_same_is_said_too():
    way = {**WAY, "preprocessing": {"differ": 0, "largest": 0.0}}
    lines = export_summary({**RESULT, "verified": [way]}).splitlines()
    assert lines[4] == "By the library's own preprocessing alone, 0 of 16 image files give other embeddings."


def test_preprocessing_that_is_the_same_is_said_once_whatever_the_rounding():
    ways = [{**WAY, "preprocessing": {"differ": 0, "largest": largest}} for largest in (5e-5, 2e-7)]
    lines = [line for line in export_summary(RESULT | {"verified": ways}).splitlines() if "preprocessing" in line]
    assert lines == ["By the library's own preprocessing alone, 0 of 16 image files give other embeddings."]


def test_libraries_whose_preprocessing_differs_are_named():
    other = {**WAY, "way": "other", "preprocessing": {"differ": 0, "largest": 0.0}}
    lines = export_summary({**RESULT, "verified": [WAY, other]}).splitlines()
    assert lines[5:7] == [
        "By the preprocessing of clip.load, 3 of 16 image files give other embeddings, by at most 0.4; see README.md.",
        "By the preprocessing of other, 0 of 16 image files give other embeddings.",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"remarks": ["the bias has no place"]}, "Note: the bias has no place."),
        (
            {"images_missing": "1.png: No such file"},
            "Note: images of the data set were not at hand, or not all of them (1.png: No such file); name their "
            "folder with --root, and they are compared too.",
        ),
        (
            {"cached": {"dtype": "float16", "difference": {"text": 3e-4, "image": 2e-4}}},
            "Note: the cache holds float16: embeddings of its features differ from the folder's by at most 3.0e-04.",
        ),
        (
            {"verified": [{"way": "other", "remark": "", "opened": False}]},
            "Not opened with other: its package is not installed.",
        ),
        ({"run": None}, "my exports/clip has head.safetensors for clip, in 12.3 s:"),
    ],
)
def test_what_a_user_should_know_is_a_line_each(changes, line):
    assert line in export_summary({**RESULT, **changes}).splitlines()
    assert line not in export_summary(RESULT).splitlines()


def test_a_measured_run_says_what_it_is_good_for():
    report = {"run": "runs/my run", "cache": {"path": "data/emoji.h5"}}
    assert use_of_run(report) == [
        "Next: clipret serve data/emoji.h5 --head 'runs/my run'  (type words, see pictures, in a browser)",
        "      clipret report 'runs/my run'  (what was gained and lost, with pictures, in one page)",
        "      clipret search data/emoji.h5 \"two dogs\" --head 'runs/my run'  (the same in the terminal)",
        "      clipret export 'runs/my run' --to FORM --out FOLDER  (for another library; --help lists the forms)",
        "      clipret embed data/emoji.h5 --head 'runs/my run' --out emb.npy  (for a vector database)",
        "      clipret.open_run('runs/my run')  (in Python)",
    ]
    assert use_of_run({**report, "run": None}) == []
