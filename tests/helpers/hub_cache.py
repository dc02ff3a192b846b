"""A cache of the Hugging Face hub as its own library lays it out, without a network."""

import hashlib
from pathlib import Path


def write_repository(cache: Path, repository: str, files: dict[str, bytes], *, revision="0" * 40, main=True) -> Path:
    """Blobs by their digest, and in a snapshot links to them; returns the snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return snapshot
