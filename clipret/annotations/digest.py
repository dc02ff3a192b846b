"""What identifies the annotations of a data set, wherever their columns are held."""

import hashlib
import json


def annotation_sha256(columns) -> str:
    """sha256 over the ids, files, splits, captions and their order: everything a reader decides.

    columns  whatever has image_ids, image_files, image_splits, captions, caption_ids and caption_images: a data set, or
             a cache made from it
    """
    digest = hashlib.sha256()
    for column in (
        columns.image_ids,
        columns.image_files,
        columns.image_splits.tolist(),
        columns.captions,
        columns.caption_ids,
        columns.caption_images.tolist(),
    ):
        digest.update(json.dumps(column, ensure_ascii=False).encode(errors="surrogatepass"))
    return digest.hexdigest()
