"""What `clipret info --machine` shows."""

from clipret.reporting.data import property_sheet
from clipret.reporting.sheets import Sheet

_GIB = 1 << 30


def machine_sheets(machine: dict) -> tuple[Sheet, ...]:
    """The result of describe_machine as a table of two columns."""
    memory, bfloat16 = machine["memory"], machine["bfloat16"]
    rows = {
        "system": f"{machine['system']}, Python {machine['python']}",
        "processor": f"{machine['processor']}, {machine['cores']} cores, {_has(bfloat16['cpu'])}",
        "memory": "unknown; clipret train needs --memory-limit" if memory is None else f"{memory / _GIB:.1f} GiB free",
        "torch": f"{machine['torch']}, {machine['threads']} threads",
        "GPU": "\n".join(
            f"{gpu['name']}, {gpu['memory'] / _GIB:.1f} GiB, {_has(bfloat16['cuda'])}" for gpu in machine["gpus"]
        )
        or "none",
    }
    for operation in machine["private_operations"]:
        reason = operation["public_because"]
        state = f"torch's public one: {reason}" if reason else "torch's private one, compared with the public one"
        rows[f"{operation['operation']}, {operation['device']}, {operation['dtype']}"] = state
    return (property_sheet(list(rows.items())),)


def _has(bfloat16: bool) -> str:
    return f"{'with' if bfloat16 else 'without'} bfloat16"
