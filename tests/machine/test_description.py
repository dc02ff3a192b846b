import json
import os
import platform

import pytest
import torch

from clipret.machine import description
from clipret.machine.description import available_cores, describe_machine
from clipret.machine.torch_private import PUBLIC_ONLY


def test_a_machine_is_described_in_json(monkeypatch):
    monkeypatch.setenv(PUBLIC_ONLY, "1")
    machine = json.loads(json.dumps(describe_machine()))
    assert (machine["torch"], machine["threads"]) == (torch.__version__, torch.get_num_threads())
    assert (machine["cores"], machine["python"]) == (available_cores(), platform.python_version())
    assert {entry["public_because"] for entry in machine["private_operations"]} == {f"{PUBLIC_ONLY} is set"}
    names = [(entry["operation"], entry["dtype"]) for entry in machine["private_operations"]]
    assert names[:4] == [(name, dtype) for name in ("linear", "convolution") for dtype in ("float32", "bfloat16")]
    assert names[4:] == [("adamw", "float32")] * (2 if machine["gpus"] else 1)


@pytest.mark.parametrize(
    ("content", "expected"), [("vendor: x\nmodel name\t: EPYC 7\nmodel name : other\n", "EPYC 7"), (None, "arm64")]
)
def test_the_processor_has_a_name(monkeypatch, tmp_path, content, expected):
    if content:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(description, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert description._processor() == expected


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6
