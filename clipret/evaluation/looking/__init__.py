"""What is wrong with a data set, as far as its cache tells: before any training, and without opening an image."""
