"""Whether a cache gives the figures that others have published, and what commonly explains it where it does not."""
