"""A trained head with its encoder, in the form of another library.

stage         from a config to the folder
source        what is exported: head, encoder, what the loss learned
description   the record of an export
card          its model card
verification  the folder, opened by the other library in a fresh process, against clipret's own embeddings
opening       what runs in that process
"""
