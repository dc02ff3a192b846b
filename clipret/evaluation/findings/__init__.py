"""What a report says of a run, beyond its figures: in numbers and rows of the cache. It opens no image."""
