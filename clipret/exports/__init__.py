"""What leaves clipret: trained heads, embeddings and indexes of them, in the forms of other programs.

TARGETS is the table of what `clipret export` writes: a new one is a file in `targets` that binds TARGET (targets.target
says what it needs to have), and a row here.

EMBEDDING_FORMATS is the table of the files that `clipret embed` writes: a new one is a file in `embeddings` that binds
WRITER to a class (embeddings.writing.Writer says what it needs to have), and a row here. INDEXES is the same for
indexes, with files in `indexes` that bind `write_index`. This module imports nothing that is large.
"""

from typing import NamedTuple


class FormatRow(NamedTuple):
    """A format of embeddings.

    module   imported when it is used
    package  what has to be installed for it, as Python imports it; None: nothing
    extra    of clipret, that installs it
    """

    module: str
    package: str | None = None
    extra: str | None = None


class IndexRow(NamedTuple):
    """A kind of index.

    module   imported when it is used
    package  what has to be installed for it, as Python imports it
    extra    of clipret, that installs it
    """

    module: str
    package: str
    extra: str


class TargetRow(NamedTuple):
    """A form of a trained head.

    module   imported when it is used
    help     what it writes, for --help
    package  what has to be installed to write and to open it, as Python imports it, one or several; None: nothing
    extra    of clipret, that installs it
    """

    module: str
    help: str
    package: str | tuple[str, ...] | None = None
    extra: str | None = None


# --to -> form of a trained head.
TARGETS: dict[str, TargetRow] = {
    "clip": TargetRow("clipret.exports.targets.clip", help="a checkpoint for OpenAI's clip.load"),
    "open_clip": TargetRow(
        "clipret.exports.targets.open_clip",
        help="a folder for open_clip's local-dir:",
        package="open_clip",
        extra="open-clip",
    ),
    "hf": TargetRow(
        "clipret.exports.targets.hf",
        help="a folder for transformers and sentence-transformers",
        package=("transformers", "tokenizers"),
        extra="hf",
    ),
    "sentence-transformers": TargetRow(
        "clipret.exports.targets.sentence_transformers",
        help="the same, with an adapter in modules of sentence-transformers",
        package=("sentence_transformers", "transformers", "tokenizers"),
        extra="hf",
    ),
    "onnx": TargetRow(
        "clipret.exports.targets.onnx",
        help="graphs for onnxruntime",
        package=("onnx", "onnxscript", "onnxruntime", "tokenizers"),
        extra="onnx",
    ),
    "head": TargetRow("clipret.exports.targets.head", help="the head alone, with its reader in numpy"),
}

# Ending of --out -> format.
EMBEDDING_FORMATS: dict[str, FormatRow] = {
    ".npy": FormatRow("clipret.exports.embeddings.npy"),
    ".npz": FormatRow("clipret.exports.embeddings.npz"),
    ".parquet": FormatRow("clipret.exports.embeddings.parquet", package="pyarrow", extra="parquet"),
    ".safetensors": FormatRow("clipret.exports.embeddings.safetensors"),
}

# --index, which is the ending of the file too -> kind of index.
INDEXES: dict[str, IndexRow] = {
    "usearch": IndexRow("clipret.exports.indexes.usearch", package="usearch", extra="usearch"),
    "faiss": IndexRow("clipret.exports.indexes.faiss", package="faiss", extra="faiss"),
    "faiss-hnsw": IndexRow("clipret.exports.indexes.faiss_hnsw", package="faiss", extra="faiss"),
}
