"""Structure arrays in MATLAB's files of version 5, every length checked: scipy's reader can crash on damaged files.

Format: MathWorks, "MAT-File Format", chapter 1.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEADER = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
# Types of elements, those of numbers with the letter that `struct` has for them.
_COMPRESSED, _MATRIX = 15, 14
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Classes of matrices.
_STRUCT, _CHARACTERS = 2, 4


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_struct(content: bytes, name: str, fields: Sequence[str], *, limit: int) -> list[tuple[float | str, ...]]:
    """The entries of a structure array.

    Args:
        content: The file.
        name: The array's name.
        fields: Fields that hold one number or one text each.
        limit: Most bytes that a compressed element may come to.

    Returns:
        The fields of each entry, in the order of `fields`.

    Raises:
        ValueError: The file is damaged, or holds no such array; says why in a clause.
    """
    order = _ORDERS.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    try:
        for element in _elements(memoryview(content)[_HEADER:], order):
            if element.kind == _COMPRESSED:
                inflated = zlib.decompressobj().decompress(element.content, limit)
                element = _next(_elements(memoryview(inflated), order))
            if element.kind == _MATRIX:
                parts = _elements(element.content, order)
                if _class(_next(parts), order) == _STRUCT and (rows := _rows(parts, order, name, fields)) is not None:
                    return rows
    except (struct.error, zlib.error, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    raise ValueError(f"it holds no structure array {name!r}")


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """The elements of a file or of a matrix, one after another."""
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, position)
        small = kind >> 16 > 0
        if small:
            # Type and size in two bytes each, and up to four bytes of content.
            kind, size = kind & 0xFFFF, kind >> 16
        start = position + (4 if small else 8)
        if size > (4 if small else len(content) - start):
            raise ValueError(f"an element of {size:,} bytes is cut short")
        yield _Element(kind, content[start : start + size])
        # Padded to eight bytes, unless it is compressed.
        position = position + 8 if small else start + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _next(elements: Iterator[_Element]) -> _Element:
    element = next(elements, None)
    if element is None:
        raise ValueError("a matrix is cut short")
    return element


def _class(flags: _Element, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", flags.content)[0] & 0xFF)


def _numbers(element: _Element, order: str) -> tuple[float, ...]:
    code = _NUMBERS.get(element.kind)
    if code is None:
        raise ValueError(f"an element of type {element.kind} holds no numbers")
    size = struct.calcsize(code)
    return struct.unpack(f"{order}{len(element.content) // size}{code}", element.content)


def _rows(
    parts: Iterator[_Element], order: str, name: str, fields: Sequence[str]
) -> list[tuple[float | str, ...]] | None:
    """The entries of a structure array after its flags; None where it has another name."""
    count = math.prod(int(size) for size in _numbers(_next(parts), order))
    if bytes(_next(parts).content) != name.encode():
        return None
    (width,) = _numbers(_next(parts), order)
    names = bytes(_next(parts).content)
    if width < 1:
        raise ValueError("its fields have no names")
    known = [names[i : i + int(width)].partition(b"\0")[0].decode() for i in range(0, len(names), int(width))]
    missing = [field for field in fields if field not in known]
    if missing:
        raise ValueError(f"its structure array {name!r} has no field {missing[0]!r}")
    rows = []
    # A count that is wrong ends where the content does.
    for _ in range(count):
        values = {field: _next(parts) for field in known}
        rows.append(tuple(_value(values[field], order) for field in fields))
    return rows


def _value(element: _Element, order: str) -> float | str:
    """The number or the text that a matrix holds."""
    parts = _elements(element.content, order)
    if element.kind != _MATRIX:
        raise ValueError(f"an element of type {element.kind} is no matrix")
    kind = _class(_next(parts), order)
    _next(parts)
    _next(parts)
    data = _next(parts)
    if kind == _CHARACTERS:
        encoding = _ENCODINGS.get(data.kind, "latin-1")
        endian = "" if encoding in ("utf-8", "latin-1") else {"<": "-le", ">": "-be"}[order]
        return bytes(data.content).decode(encoding + endian)
    values = _numbers(data, order)
    if len(values) != 1:
        raise ValueError(f"a field holds {len(values):,} numbers instead of one")
    return values[0]
