"""What both stages know of images and captions."""
