"""The machine: devices, matrix products, worker processes."""
