"""The machine: devices, matrix products, worker processes, and files: opened with limits, read strictly, escaped."""
