"""Pickles of tensors, read without importing or calling anything that they name.

torch writes a checkpoint as a pickle beside the bytes of its tensors. This machine knows the instructions that such a
pickle needs. Classes and functions become inert stand-ins that remember their name, what builds a tensor becomes a
record of where its bytes are, and nothing else exists: a hostile pickle can at most be refused.
"""

import dataclasses
import io
import pickle
from dataclasses import dataclass, field

# A state dict of CLIP takes 0.1 MiB, with an optimizer's state 1 MiB. A hostile byte may take up to 130 in memory.
MOST_BYTES = 4 << 20

# Keys are numbers, and messages show them.
_MOST_LETTERS = 100

_STORAGE_KINDS = {
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "Untyped": "uint8",
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file.

    kind     the name of its dtype, or what else it is: "quantized", "sparse", "nested", "meta", "a lazy view"
    shape    as declared, like all below: sizes of at most 2^48, and no more is checked here
    key      of its storage in the file
    offset   of the first element, in elements, with one stride a dimension
    """

    kind: str
    shape: tuple[int, ...] = ()
    key: str = ""
    offset: int = 0
    stride: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names; never imported."""

    path: str


@dataclass(eq=False, slots=True)
class StandIn:
    """An object that a pickle would create: the name of its class or function, and its state."""

    path: str
    state: object = None
    items: dict = field(default_factory=dict)


def read_pickle(file: io.BytesIO, *, storages: dict[str, str] | None = None) -> object:
    """The next object of a file in memory: dicts, lists, plain values, StoredTensor and StandIn.

    storages  gets the kind of each storage that the pickle names, by its key

    Raises ValueError when it is damaged, or is no pickle of tensors.
    """
    try:
        return _Machine(file, storages={} if storages is None else storages).load()
    except Exception as error:
        # A damaged pickle can raise any error here; the interpreter has no state outside.
        raise ValueError("is damaged, or not as torch saves: the pickle in it cannot be read; copy it again") from error


_INSTRUCTIONS = """
    PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST EMPTY_DICT GLOBAL STACK_GLOBAL BINPERSID BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
"""
_CODES = [getattr(pickle, name)[0] for name in _INSTRUCTIONS.split()]
_AS_THEY_ARE = {code: pickle._Unpickler.dispatch[code] for code in _CODES}


class _Machine(pickle._Unpickler):
    """The standard library's interpreter in Python: the one in C allocates as much memory as a pickle claims."""

    def __init__(self, file: io.BytesIO, *, storages: dict[str, str]):
        super().__init__(file)
        self._globals: dict[str, Global] = {}
        self._storages = storages

    def find_class(self, module: str, name: str) -> Global:
        path = f"{module}.{name}"
        return self._globals.setdefault(path, Global(path))

    def persistent_load(self, pid: tuple) -> StoredTensor | Global:
        """("storage", type, key, ...) -> a record without a shape; ("module", class, source, ...) -> the class."""
        if pid[0] == "module":
            return Global(pid[1].path)
        name, key = pid[1].path.split(".")[-1].removesuffix("Storage"), pid[2]
        # The sixth entry is for views of storages, which torch has not written since 2017.
        if pid[0] != "storage" or type(key) is not str or len(key) > _MOST_LETTERS or pid[5:] not in ((), (None,)):
            raise ValueError("an unknown kind of storage")
        kind = self._storages[key] = _STORAGE_KINDS.get(name, name)
        return StoredTensor(kind, key=key)

    def call(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _make(self.stack[-1].path, arguments)

    def call_with_names(self) -> None:
        self.stack.pop()
        self.call()

    def set_state(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def set_items(self) -> None:
        self._fill(self.pop_mark())

    def append_one(self) -> None:
        self._extend([self.stack.pop()])

    def append_many(self) -> None:
        self._extend(self.pop_mark())

    def _fill(self, pairs: list) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, StandIn) else target
        # Hashing other keys, such as nested tuples, could overflow the C stack.
        target.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if type(key) is str)

    def _extend(self, values: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    dispatch = _AS_THEY_ARE | {
        pickle.REDUCE[0]: call,
        pickle.NEWOBJ[0]: call,
        pickle.NEWOBJ_EX[0]: call_with_names,
        pickle.BUILD[0]: set_state,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
        pickle.APPEND[0]: append_one,
        pickle.APPENDS[0]: append_many,
        # Sets would hash their items, which nobody needs; bytearrays would allocate what they claim.
        pickle.EMPTY_SET[0]: pickle._Unpickler.load_empty_list,
        pickle.ADDITEMS[0]: append_many,
        pickle.FROZENSET[0]: pickle._Unpickler.load_tuple,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,
    }


def _make(path: str, arguments: tuple) -> object:
    """The result of calling a function or class."""
    if path == "collections.OrderedDict":
        return {}
    module, _, name = path.rpartition(".")
    if module == "torch._utils" and name in _REBUILD:
        return _REBUILD[name](*arguments)
    if path == "torch._tensor._rebuild_from_type_v2":
        # A subclass of Tensor, or one with attributes: (function, type, arguments, state).
        return _make(arguments[0].path, arguments[2])
    return StandIn(path)


def _rebuild_tensor(storage: StoredTensor, offset: int, shape: tuple, stride: tuple, *more) -> StoredTensor:
    """more: requires_grad, hooks and, for a tensor to be negated or conjugated when it is read, this flag."""
    (offset,) = _integers([offset])
    kind = "a lazy view" if any(more[2:]) else storage.kind
    shape, stride = _integers(shape), _integers(stride)
    if len(shape) != len(stride):
        raise ValueError("a shape without its strides")
    return dataclasses.replace(storage, kind=kind, shape=shape, offset=offset, stride=stride)


def _rebuild_typed_tensor(storage, offset, shape, stride, requires_grad, hooks, dtype, *more) -> StoredTensor:
    tensor = _rebuild_tensor(storage, offset, shape, stride, requires_grad, hooks, *more)
    return dataclasses.replace(tensor, kind=dtype.path.removeprefix("torch."))


_REBUILD = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_typed_tensor,
    "_rebuild_parameter": lambda tensor, *_: tensor,
    "_rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "_rebuild_qtensor": lambda *_: StoredTensor("quantized"),
    "_rebuild_sparse_tensor": lambda *_: StoredTensor("sparse"),
    "_rebuild_nested_tensor": lambda *_: StoredTensor("nested"),
    "_rebuild_meta_tensor_no_storage": lambda *_: StoredTensor("meta"),
}


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not all(type(value) is int and 0 <= value < 1 << 48 for value in values):
        raise ValueError("a size that is none")
    return tuple(values)
