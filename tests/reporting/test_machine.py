from clipret.reporting.machine import machine_sheets
from tests.helpers.drawing import drawn

MACHINE = {
    "system": "Linux-6",
    "python": "3.11.7",
    "processor": "EPYC",
    "cores": 2,
    "memory": 3 << 30,
    "torch": "2.14.1",
    "threads": 1,
    "bfloat16": {"cpu": False, "cuda": True},
    "gpus": [{"name": "H100", "memory": 80 << 30}],
    "private_operations": [
        {"operation": "linear", "device": "cpu", "dtype": "float32", "public_because": None},
        {"operation": "adamw", "device": "cuda", "dtype": "float32", "public_because": "torch 9 refuses it: no"},
    ],
}


def lines_of(machine) -> list[list[str]]:
    """Cells of the lines."""
    lines = [line.strip() for line in drawn(machine_sheets(machine)).splitlines() if line.strip()]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_every_fact_has_its_line():
    assert lines_of(MACHINE) == [
        ["system", "Linux-6, Python 3.11.7"],
        ["processor", "EPYC, 2 cores, without bfloat16"],
        ["memory", "3.0 GiB free"],
        ["torch", "2.14.1, 1 threads"],
        ["GPU", "H100, 80.0 GiB, with bfloat16"],
        ["linear, cpu, float32", "torch's private one, compared with the public one"],
        ["adamw, cuda, float32", "torch's public one: torch 9 refuses it: no"],
    ]


def test_a_machine_without_a_gpu_or_a_known_memory_says_so():
    lines = lines_of({**MACHINE, "memory": None, "gpus": [], "bfloat16": {"cpu": True}, "private_operations": []})
    assert ["memory", "unknown; clipret train needs --memory-limit"] in lines
    assert ["GPU", "none"] in lines
