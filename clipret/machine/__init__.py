"""The machine: devices, matrix products, worker processes, and files (size limits, strict parsing, escaping)."""
