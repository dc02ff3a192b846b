"""Files that users hand over or keep: opened with limits, records and tensors read strictly, text made visible."""
