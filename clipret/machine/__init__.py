"""The machine: devices, matrix products, worker processes, reports of progress, and files (size limits, strict parsing, escaping)."""
