"""The command line as a person and as a program sees it."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import clipret
from clipret.config import ExtractConfig, to_command
from tests.conftest import write_coco
from tests.helpers.own_data import make, write_shard


@pytest.fixture
def coco(coco_root, checkpoints):
    return ["--dataset", "coco", "--root", coco_root, "--model", checkpoints["resnet"], "--workers", 0]


@pytest.mark.parametrize(
    ("command", "common"),
    [
        ("download", ["--quiet", "--json", "--base-url", "--annotations-only"]),
        ("check", ["--quiet", "--json", "--split", "--columns", "--model"]),
        ("extract", ["--quiet", "--json", "--seed", "--device", "--split", "--columns"]),
        ("train", ["--quiet", "--json", "--seed", "--device"]),
        ("eval", ["--quiet", "--json", "--seed", "--device", "--protocol"]),
        ("info", ["--json", "--problems", "--truncated", "--machine"]),
        ("verify", ["--quiet", "--json", "--seed", "--device", "--sample", "--model"]),
        ("merge", ["--quiet", "--json", "--out"]),
    ],
)
def test_help_shows_every_command_with_an_example(run, command, common):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"clipret {command} " in out
    assert all(option in out for option in common)


def test_no_command_shows_the_help_and_version_the_version(run):
    status, out, _ = run()
    assert status == 0
    assert all(
        command in out for command in ("download", "check", "extract", "train", "eval", "info", "verify", "merge")
    )
    assert run("--version") == (0, f"{clipret.__version__}\n", "")


def test_the_three_commands_follow_each_other(run, coco):
    status, out, err = run("extract", *coco, "--out", "c.h5")
    assert (status, "Next: clipret train --cache c.h5" in out) == (0, True)
    assert re.search(r"images 80/80", err)
    status, out, err = run("train", "--cache", "c.h5", "--epochs", 2)
    assert (status, "Next: clipret eval" in out) == (0, True)
    assert "epochs 2/2" in err
    status, out, _ = run("eval")
    assert status == 0
    assert all(word in out for word in ("zero-shot", "trained", "gain", "R@10", "mAP@10", "MRR", "rsum", "20 images"))
    assert Path("runs/0001-margin-linear/metrics.json").exists()
    status, out, _ = run("info", "c.h5")
    assert (status, "complete" in out, "split by" in out) == (0, True, True)


def test_json_is_all_there_is_on_standard_output_and_nothing_on_the_other(run, coco):
    for words in (
        ("check", *coco[:4]),
        ("download", "flickr30k"),
        ("extract", *coco, "--out", "c.h5"),
        ("train", "--cache", "c.h5", "--epochs", 1),
        ("eval",),
        ("eval", "--zero-shot", "--cache", "c.h5", "--k", "1,2000"),
        ("info", "c.h5"),
    ):
        status, out, err = run(*words, "--json")
        assert (status, err) == (0, "")
        assert isinstance(json.loads(out), dict)


def test_quiet_leaves_the_result(run, coco):
    assert run("extract", *coco, "--out", "c.h5", "--quiet") == (0, "c.h5\n", "")
    assert run("train", "--cache", "c.h5", "--epochs", 1, "-q") == (0, "runs/0001-margin-linear\n", "")
    status, out, err = run("eval", "-q")
    assert (status, err, "trained" in out) == (0, "", True)


def test_eval_says_where_every_query_is(run, coco):
    run("extract", *coco, "--out", "c.h5", "-q")
    words = ("eval", "--zero-shot", "--cache", "c.h5", "--per-query", "q.csv")
    assert run(*words)[1].endswith("every query is in q.csv\n")
    assert "q.csv" not in run(*words, "-q")[1]


def test_check_shows_splits_lengths_and_what_is_missing(run, coco, coco_root):
    status, out, _ = run("check", *coco[:4])
    assert status == 0
    assert all(text in out for text in (str(coco_root)[-20:], "test: 20 images", "80; all are there", "6-10", "█"))
    words = [str(word) for word in coco[:4]]
    assert out.splitlines()[-1] == f"Next: clipret extract {shlex.join(words)}"
    assert run("check", *coco[:4], "--quiet") == (0, "ok\n", "")


def test_check_takes_the_model_whose_tokens_it_counts(run, coco):
    status, out, _ = run("check", *coco[:4], "--json", "--model", "tiny-emoji")
    assert (status, json.loads(out)["model"]) == (0, "tiny-emoji")
    status, _, err = run("check", *coco[:4], "--model", "ViT-B/33")
    assert (status, err[:33]) == (1, "error: unknown model 'ViT-B/33'; ")


def test_info_shows_a_cache_or_the_machine(run):
    status, out, _ = run("info", "--machine")
    assert (status, "torch" in out, "adamw, cpu, float32" in out) == (0, True, True)
    status, out, _ = run("info", "--machine", "--json")
    assert (status, json.loads(out)["torch"]) == (0, torch.__version__)
    refusal = "error: info needs either the path of a cache or --machine.\n"
    assert run("info") == run("info", "c.h5", "--machine") == (2, "", refusal)


def test_problems_are_counted_and_listed_on_request(run, checkpoints, tmp_path):
    root = write_coco(tmp_path / "coco", train=10, test=4)
    broken = sorted((root / "val2017").iterdir())[0]
    broken.write_bytes(b"")
    words = ["--dataset", "coco", "--root", root, "--model", checkpoints["resnet"], "--workers", 0, "--out", "c.h5"]
    status, out, err = run("extract", *words, "--max-problems", 0.01)
    assert (status, "1 of 14 images (7.1 %) cannot be read, more than --max-problems 0.01 allows" in err) == (1, True)
    status, out, _ = run("extract", *words, "--max-problems", 0.1)
    assert (status, "1 image could not be read; clipret info c.h5 --problems lists them." in out) == (0, True)
    status, out, _ = run("info", "c.h5")
    assert (status, "empty file: 1" in out, broken.name in out) == (0, True, False)
    status, out, _ = run("info", "c.h5", "--problems")
    assert (status, f"val2017/{broken.name}: empty file" in out) == (0, True)
    status, out, _ = run("eval", "--zero-shot", "--cache", "c.h5")
    assert (status, "3 of 4 images: 1 have no usable feature and are left out" in out) == (0, True)


def test_several_protocols_are_measured_from_one_cache(run, coco):
    run("extract", *coco, "--out", "c.h5", "-q")
    status, out, _ = run("eval", "--zero-shot", "--cache", "c.h5", "--protocol", "coco-val2017,coco-val2017-all,split")
    assert status == 0
    out = " ".join(out.split())
    assert all(f"protocol {name} " in out for name in ("coco-val2017", "coco-val2017-all", "split"))
    assert "not comparable with published figures: 20 images where the protocol has 5,000" in out
    status, out, _ = run("eval", "--zero-shot", "--cache", "c.h5", "--json")
    assert json.loads(out)["protocol"]["name"] == "coco-val2017"
    assert json.loads(out)["protocol"]["captions"] == 100


def test_a_head_measured_on_its_own_training_images_is_refused_and_marked(run, coco):
    run("extract", *coco, "--out", "c.h5", "-q")
    run("train", "--cache", "c.h5", "--epochs", 1, "-q")
    status, out, err = run("eval", "--split", "train")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"error: (\d+) of the \1 train images were trained on by runs/0001-margin-linear: figures on them "
        r"say nothing about new images\. Measure on images held out from it, or see the figures all the same with "
        r"--allow-leak\.\n",
        err,
    )
    status, out, _ = run("eval", "--split", "train", "--allow-leak")
    assert status == 0
    assert re.search(r"LEAK: (\d+) of these \1 images were trained on", out)


def test_the_command_that_resumes_has_every_setting(run):
    config = ExtractConfig(
        dataset="coco", split="karpathy", restval=False, skip_missing=True, columns="image=a b", prompt="a {}"
    )
    command = to_command("extract", config)
    assert command == (
        "clipret extract --dataset coco --split karpathy --no-restval --prompt 'a {}' --columns 'image=a b' "
        "--skip-missing"
    )


def test_extract_without_out_writes_where_train_expects_it(run, coco):
    run("extract", *coco, "-q")
    assert Path("data/coco.h5").exists()


def test_a_finished_cache_is_left_alone_and_another_batch_size_is_remarked(run, coco):
    run("extract", *coco, "--out", "c.h5", "-q")
    assert run("extract", *coco, "--out", "c.h5")[1] == (
        "c.h5 was complete already; nothing to do.\nNext: clipret train --cache c.h5\n"
    )


def test_ctrl_c_exits_130_with_the_command_that_resumes(run, coco, monkeypatch):
    from clipret.extraction.job import Job

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "_texts", interrupted)
        status, _, err = run("extract", *coco, "--out", "c.h5")
    assert status == 130
    message, _, command = err.splitlines()[-1].partition(": clipret ")
    assert message == "error: interrupted; finished rows are kept; go on with"
    status, out, _ = run(*command.split())
    assert (status, "80 images and 480 captions, 0 and 480 of them now" in out) == (0, True)


def test_check_reads_what_tools_leave_and_says_how(run, tmp_path):
    rule = "a sample is all members with the same name up to the first dot, and these were read by their last endings"
    write_shard(tmp_path / "dots.tar", {"t v1.0.jpg": b"", "t v1.0.txt": "dot"})
    write_shard(tmp_path / "bare.tar", {"1.jpg": b"", "1.txt": "dot", "2.jpg": b""})
    write_shard(tmp_path / "shards" / "0.tar", {"1.jpg": b"", "1.txt": "dot"})
    make(tmp_path / "flickr8k", {"Images/0.jpg": "", "captions.txt": "image,caption\n0.jpg,dot\n"})
    make(tmp_path / "blank", {"0.jpg": "", "0.txt": "dot\n&nbsp;\n"})
    remarks = {
        "dots.tar": [f"1 samples have dots in their names; {rule}: dots.tar/t v1.0.jpg"],
        "bare.tar": ["1 image without a caption, in the gallery only"],
        "shards": ["read as 1 shard: 0.tar"],
        "flickr8k": ["the paths in captions.txt start from Images, where these images are"],
        "blank": ["left out 1 empty caption, of 0.jpg"],
    }
    for dataset, said in remarks.items():
        status, out, _ = run("check", "--dataset", dataset if "." in dataset else f"./{dataset}", "--json")
        report = json.loads(out)
        assert (status, report["remarks"], report["captions"], report["missing"]["images"]) == (0, said, 1, 0)
