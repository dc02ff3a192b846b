"""The machine: devices, matrix products, worker processes, reports of progress, and files (limits, parsing, escaping)."""
