"""Structure arrays in MATLAB files of version 5. Every length is checked: SciPy's reader can crash on damaged files.

Format: MathWorks, "MAT-File Format", chapter 1.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEADER = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
# Element types; those of numbers with their `struct` format.
_COMPRESSED, _MATRIX = 15, 14
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Matrix classes.
_STRUCT, _CHARACTERS = 2, 4


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_struct(content: bytes, name: str, fields: Sequence[str], *, limit: int) -> list[tuple[float | str, ...]]:
    """Return the entries of a structure array.

    Args:
        content: Content of the file.
        name: The array's name.
        fields: Fields with one number or one text each.
        limit: Maximum size of a decompressed element in bytes.

    Returns:
        The fields of each entry, in the order of `fields`.

    Raises:
        ValueError: The file is damaged or has no such array; the message is a clause.
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
    raise ValueError(f"it has no structure array {name!r}")


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """Yield the elements of a file or a matrix."""
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, position)
        small = kind >> 16 > 0
        if small:
            # Type and size in two bytes each, and up to four bytes of content.
            kind, size = kind & 0xFFFF, kind >> 16
        start = position + (4 if small else 8)
        if size > (4 if small else len(content) - start):
            raise ValueError(f"an element of {size:,} bytes is truncated")
        yield _Element(kind, content[start : start + size])
        # Padded to eight bytes, unless it is compressed.
        position = position + 8 if small else start + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _next(elements: Iterator[_Element]) -> _Element:
    element = next(elements, None)
    if element is None:
        raise ValueError("a matrix is truncated")
    return element


def _class(flags: _Element, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", flags.content)[0] & 0xFF)


def _numbers(element: _Element, order: str) -> tuple[float, ...]:
    code = _NUMBERS.get(element.kind)
    if code is None:
        raise ValueError(f"an element of type {element.kind} has no numbers")
    size = struct.calcsize(code)
    return struct.unpack(f"{order}{len(element.content) // size}{code}", element.content)


def _rows(
    parts: Iterator[_Element], order: str, name: str, fields: Sequence[str]
) -> list[tuple[float | str, ...]] | None:
    """Return the entries of a structure array whose flags were read; None if it has another name."""
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
    # A wrong count raises at the end of the content.
    for _ in range(count):
        values = {field: _next(parts) for field in known}
        rows.append(tuple(_value(values[field], order) for field in fields))
    return rows


def _value(element: _Element, order: str) -> float | str:
    """Return the number or the text in a matrix."""
    parts = _elements(element.content, order)
    if element.kind != _MATRIX:
        raise ValueError(f"an element of type {element.kind} is not a matrix")
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
        raise ValueError(f"a field has {len(values):,} numbers instead of one")
    return values[0]
