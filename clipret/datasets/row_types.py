"""The types of Parquet's and Arrow's columns: which hold text, images or sentences, and which are refused."""

from pathlib import Path

from clipret.errors import DatasetError

# What Polars, DuckDB and the Hub write as well as Arrow's plain text and lists.
_TEXTS = ("string", "large_string", "string_view", "null")
LISTS = ("list", "large_list", "list_view", "large_list_view", "fixed_size_list")
_BYTES = ("binary", "large_binary", "binary_view", "fixed_size_binary")
# Of a sentence that is a structure, as Karpathy's are.
_SENTENCE_TEXTS = ("raw", "caption", "text")


def require_type(path: Path, schema, *, ours: str, name: str | None) -> None:
    """Raise DatasetError when a column that is there is of no type that the image, caption, split or id may have."""
    if name not in schema.names:
        return
    import pyarrow.types as types

    kind = schema.field(name).type
    expected = {"image": "text, paths of image files", "caption": "text or lists of texts", "id": "text or numbers"}
    if ours == "image" and holds_image(kind):
        raise DatasetError(
            f"{path}: column `{name}` holds the images themselves, and other files of the folder name theirs by paths; "
            f"give this file by itself, as --dataset {path}"
        )
    is_number = types.is_integer(kind) or types.is_floating(kind)
    fits = is_text(kind) or (ours == "id" and is_number)
    if ours == "caption" and is_kind(kind, LISTS):
        fits = is_text(kind.value_type)
    if not fits:
        way_out = ", or go by a hash with --split hash" if ours == "split" else ""
        raise DatasetError(
            f"{path}: column `{name}` holds {kind}; expected {expected.get(ours, 'text')}, as the {ours}{way_out}."
        )


def holds_image(kind) -> bool:
    """Whether a column holds image files: bytes, structures with a field `bytes` as the Hub's, or lists of these."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if is_kind(kind, LISTS):
        kind = kind.value_type
    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_kind(kind.field(place).type, (*_BYTES, "null"))
    return is_kind(kind, _BYTES)


def is_text(kind) -> bool:
    """Whether a column holds text, as categories too."""
    import pyarrow.types as types

    return is_kind(kind.value_type if types.is_dictionary(kind) else kind, _TEXTS)


def is_kind(kind, names: tuple[str, ...]) -> bool:
    """Whether a column is of one of these kinds; not every pyarrow knows all of them."""
    import pyarrow.types as types

    return any(getattr(types, f"is_{name}", lambda _: False)(kind) for name in names)


def is_sentences(kind) -> bool:
    """Whether a column holds structures with a text in one of the usual fields, or lists of such."""
    import pyarrow.types as types

    kind = kind.value_type if is_kind(kind, LISTS) else kind
    return types.is_struct(kind) and any(field.name in _SENTENCE_TEXTS and is_text(field.type) for field in kind)


def plain_caption(value):
    """A caption as text, or a list of texts; of a structure its field with the text. Any other value as it is."""
    if isinstance(value, list):
        return [plain_caption(item) for item in value]
    if isinstance(value, dict):
        return next((value[name] for name in _SENTENCE_TEXTS if isinstance(value.get(name), str)), None)
    return value
