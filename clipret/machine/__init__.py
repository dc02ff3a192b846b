"""The machine: devices, matrix products, worker processes, progress, and files (limits, parsing, escaping)."""
