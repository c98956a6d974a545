"""Mutations of files, each drawn from a `random.Random`, for the targets of the fuzz harness."""

import csv
import io
import json
import random
import tomllib
from collections.abc import Callable
from typing import Any

import tomli_w

Mutation = Callable[[random.Random, bytes], bytes]

SURROGATE = "\ud800"
NUMBERS: list[Any] = [
    0, -1, 1, 2, 255, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), True, False,
]  # fmt: skip
TEXTS = [
    "", " ", "a", "\0", "\x1b[2J", "\n", "../../x", "/etc/passwd", "/dev/zero", "a" * 5_000, "é", "e\u0301", SURROGATE,
    "\u202e", "nan", "1", "-1", "None", "<img onerror=x>", "|", "%s%n", "😀", ".", "..", "con", "a/b", "\ufeff",
]  # fmt: skip
CONTAINERS: list[Any] = [[], {}, [[]], [None], [0] * 2_000, {"": {}}, {"a": 1}, [[0, 1], [2]]]


def mutate_bytes(numbers: random.Random, content: bytes) -> bytes:
    """Flip, replace, cut, insert, duplicate, move, shuffle or zero bytes, one to three times."""
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        content = numbers.choice(_BYTE_MUTATIONS)(numbers, content)
    return content


def mutate_text(numbers: random.Random, content: bytes) -> bytes:
    """Mutate lines, fields, numbers or encoding of a text file; one time in four, bytes."""
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        content = numbers.choice(_TEXT_MUTATIONS)(numbers, content)
    return content


def mutate_csv(numbers: random.Random, content: bytes) -> bytes:
    """Mutate cells, rows and columns of a CSV file; one time in three, its text."""
    if numbers.random() < 1 / 3:
        return mutate_text(numbers, content)
    rows = list(csv.reader(io.StringIO(content.decode(errors="replace"))))
    row = numbers.choice(rows) if rows else []
    kind = numbers.choice(["cell", "drop cell", "more cells", "drop column", "double row", "quote", "no header"])
    if kind == "drop column" and row:
        column = numbers.randrange(len(row))
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    elif kind == "double row" and row:
        rows.insert(numbers.randrange(len(rows)), list(row))
    elif kind == "more cells":
        row += [numbers.choice(TEXTS)] * numbers.choice([1, 2, 50])
    elif kind == "no header":
        del rows[:1]
    elif row:
        column = numbers.randrange(len(row))
        if kind == "drop cell":
            del row[column]
        else:
            row[column] = '"' if kind == "quote" else str(numbers.choice([*TEXTS, *NUMBERS[:9], 0.5]))
    text = io.StringIO()
    csv.writer(text, lineterminator=numbers.choice(["\n", "\r\n"])).writerows(rows)
    return text.getvalue().encode(errors="surrogatepass")


def mutate_json(numbers: random.Random, content: bytes) -> bytes:
    """Mutate the values of a JSON file; one time in four, its text."""
    if numbers.random() < 0.25:
        return mutate_text(numbers, content)
    return mutate_json_values(numbers, content)


def mutate_json_values(numbers: random.Random, content: bytes) -> bytes:
    """Mutate keys and values of a JSON file, which stays JSON but for NaN, infinities and lone surrogates."""
    value = json.loads(content)
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        value = mutate_value(numbers, value)
    if numbers.random() < 0.02:
        depth = numbers.choice([100, 5_000, 100_000])
        return b"[" * depth + b"1" + b"]" * depth
    return _json(value)


def mutate_json_lines(numbers: random.Random, content: bytes) -> bytes:
    """Mutate one line of a file that holds a JSON value a line; one time in four, its text."""
    lines = content.splitlines()
    if numbers.random() < 0.25 or not lines:
        return mutate_text(numbers, content)
    number = numbers.randrange(len(lines))
    lines[number] = mutate_json_values(numbers, lines[number])
    return b"\n".join(lines) + b"\n"


def mutate_toml(numbers: random.Random, content: bytes) -> bytes:
    """Mutate keys and values of a TOML file, which stays TOML; one time in four, its text."""
    if numbers.random() < 0.25:
        return mutate_text(numbers, content)
    value: Any = tomllib.loads(content.decode())
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        changed = mutate_value(numbers, value)
        value = changed if isinstance(changed, dict) else value
    if numbers.random() < 0.02:
        depth = numbers.choice([100, 3_000])
        return content + b"\nnested = " + b"[" * depth + b"]" * depth + b"\n"
    return tomli_w.dumps(_without_none(value)).encode(errors="surrogatepass")


def mutate_safetensors(numbers: random.Random, content: bytes) -> bytes:
    """Mutate the JSON header of a safetensors file, its length, or any byte."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    kind = numbers.choice(["bytes", "values", "values", "header", "length"])
    if kind == "values":
        header = mutate_json_values(numbers, header)
    elif kind == "header":
        header = mutate_text(numbers, header)
    elif kind == "length":
        return numbers.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little") + content[8:]
    else:
        return mutate_bytes(numbers, content)
    return len(header).to_bytes(8, "little") + header + body


def one_of(*mutations: Mutation) -> Mutation:
    """A mutation that draws which of several is done."""
    return lambda numbers, content: numbers.choice(mutations)(numbers, content)


def mutate_value(numbers: random.Random, value: Any) -> Any:
    """Copy a JSON-like value with one place in it changed."""
    value = json.loads(_json(value)) if isinstance(value, (dict, list)) else value
    places = list(_places(value))
    if not places or numbers.random() < 0.02:
        return other_value(numbers, value)
    # Half of the places are drawn near the root: large lists deep inside would take nearly all draws.
    shallow = [place for place in places if place[2] <= 2]
    container, key, _ = numbers.choice(shallow if shallow and numbers.random() < 0.5 else places)
    kind = numbers.choice(["other", "other", "other", "drop", "add", "rename", "swap", "double", "nest"])
    if kind == "drop":
        del container[key]
    elif kind == "add" and isinstance(container, dict):
        container[numbers.choice([*TEXTS, "extra"])] = other_value(numbers, container[key])
    elif kind == "rename" and isinstance(container, dict):
        container[numbers.choice([*TEXTS, f"{key}x"])] = container.pop(key)
    elif kind == "swap":
        other, other_key, _ = numbers.choice(places)
        if not (_inside(container[key], other) or _inside(other[other_key], container)):
            container[key], other[other_key] = other[other_key], container[key]
    elif kind == "double" and isinstance(container, list):
        container.insert(key, container[key])
    elif kind == "nest":
        container[key] = numbers.choice([[container[key]], {"a": container[key]}, _nested(numbers)])
    else:
        container[key] = other_value(numbers, container[key])
    return value


def other_value(numbers: random.Random, value: Any) -> Any:
    """Return a replacement for `value`: slightly different, of the same type, or of another type."""
    if isinstance(value, str) and value and numbers.random() < 0.4:
        place = numbers.randrange(len(value))
        return value[:place] + numbers.choice(TEXTS) + value[place + numbers.choice([0, 1, len(value)]) :]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and numbers.random() < 0.4:
        if isinstance(value, int) and abs(value) > 1e300:
            return -value
        return numbers.choice([value + 1, value - 1, -value, value * 2, value * 10, value / 3, str(value)])
    return numbers.choice([numbers.choice(NUMBERS), numbers.choice(TEXTS), numbers.choice(CONTAINERS), None])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _places(value: Any, depth: int = 0) -> Any:
    """Every (container, key, depth) within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key, depth
        yield from _places(item, depth + 1)


def _inside(value: Any, container: Any) -> bool:
    return value is container or any(item[key] is container for item, key, _ in _places(value))


def _nested(numbers: random.Random) -> Any:
    value: Any = 0
    for _ in range(numbers.choice([3, 50, 150])):
        value = [value] if numbers.random() < 0.5 else {"a": value}
    return value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value


def _span(numbers: random.Random, content: bytes) -> tuple[int, int]:
    """A random range of positions, mostly short."""
    begin = numbers.randrange(len(content) + 1)
    return begin, min(len(content), begin + numbers.choice([1, 2, 8, 64, 1_000, 100_000]))


def _flip(numbers: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(numbers.choice([1, 1, 2, 16])) if changed else ():
        changed[numbers.randrange(len(changed))] ^= 1 << numbers.randrange(8)
    return bytes(changed)


def _replace(numbers: random.Random, content: bytes) -> bytes:
    begin, end = _span(numbers, content)
    return content[:begin] + numbers.randbytes(end - begin) + content[end:]


def _zero(numbers: random.Random, content: bytes) -> bytes:
    begin, end = _span(numbers, content)
    return content[:begin] + numbers.choice([b"\0", b"\xff"]) * (end - begin) + content[end:]


def _truncate(numbers: random.Random, content: bytes) -> bytes:
    return content[: numbers.choice([0, 1, len(content) // 2, len(content) - 1, numbers.randrange(len(content) + 1)])]


def _remove(numbers: random.Random, content: bytes) -> bytes:
    begin, end = _span(numbers, content)
    return content[:begin] + content[end:]


def _insert(numbers: random.Random, content: bytes) -> bytes:
    begin, end = _span(numbers, content)
    return content[:begin] + numbers.randbytes(max(1, end - begin)) + content[begin:]


def _append(numbers: random.Random, content: bytes) -> bytes:
    return content + numbers.choice([numbers.randbytes(numbers.choice([1, 8, 1_000])), b"\0" * 64, content])


def _duplicate(numbers: random.Random, content: bytes) -> bytes:
    begin, end = _span(numbers, content)
    return content[:end] + content[begin:end] + content[end:]


def _splice(numbers: random.Random, content: bytes) -> bytes:
    """Copy one part of the content over another."""
    begin, end = _span(numbers, content)
    place = numbers.randrange(len(content) + 1)
    return content[:place] + content[begin:end] + content[place + end - begin :]


def _word(numbers: random.Random, content: bytes) -> bytes:
    """Put an extreme number of 1 to 8 bytes somewhere."""
    width = numbers.choice([1, 2, 4, 8])
    place = numbers.randrange(len(content) + 1)
    value = numbers.choice([0, 1, (1 << 8 * width) - 1, 1 << 8 * width - 1, (1 << 8 * width - 1) - 1])
    return content[:place] + value.to_bytes(width, numbers.choice(["little", "big"])) + content[place + width :]


def _lines(change: Callable[[random.Random, list[bytes]], None]) -> Mutation:
    def mutation(numbers: random.Random, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        if lines:
            change(numbers, lines)
        return b"".join(lines)

    return mutation


def _drop_line(numbers: random.Random, lines: list[bytes]) -> None:
    begin = numbers.randrange(len(lines))
    del lines[begin : begin + numbers.choice([1, 1, 3, 100])]


def _double_line(numbers: random.Random, lines: list[bytes]) -> None:
    lines.insert(numbers.randrange(len(lines) + 1), numbers.choice(lines))


def _shuffle_lines(numbers: random.Random, lines: list[bytes]) -> None:
    numbers.shuffle(lines)


def _blank_line(numbers: random.Random, lines: list[bytes]) -> None:
    lines.insert(numbers.randrange(len(lines) + 1), numbers.choice([b"\n", b"\r", b"\r\n", b"  \n", b"\x0c", b"#\n"]))


def _delimiters(numbers: random.Random, content: bytes) -> bytes:
    """Replace one delimiter by another, once or everywhere."""
    signs = [b" ", b",", b"\t", b";", b"\n", b"\r\n", b"=", b":", b'"', b"'", b"[", b"]", b"{", b"}", b"/", b"\\", b"."]
    before = numbers.choice([sign for sign in signs if sign in content] or signs)
    after = numbers.choice([*signs, b""])
    if numbers.random() < 0.5:
        return content.replace(before, after)
    place = content.find(before, numbers.randrange(len(content) + 1))
    return content if place < 0 else content[:place] + after + content[place + len(before) :]


def _field(numbers: random.Random, content: bytes) -> bytes:
    """Replace one word or number."""
    words = content.split(b" ") if numbers.random() < 0.5 else content.split(b"\n")
    new = numbers.choice([*TEXTS, *(str(number) for number in NUMBERS if abs(number) < 1e300)])
    words[numbers.randrange(len(words))] = str(new).encode(errors="surrogatepass")
    return (b" " if b" ".join(words).count(b" ") >= content.count(b" ") else b"\n").join(words)


def _encoding(numbers: random.Random, content: bytes) -> bytes:
    text = content.decode(errors="replace")
    kind = numbers.choice(["utf-16", "utf-8-sig", "latin-1", "stray", "surrogate", "control", "crlf"])
    if kind in {"utf-16", "utf-8-sig"}:
        return text.encode(kind)
    place = numbers.randrange(len(content) + 1)
    if kind == "crlf":
        return content.replace(b"\n", b"\r\n")
    new = {"latin-1": b"\xe9", "stray": b"\xff\xfe", "surrogate": b"\xed\xa0\x80", "control": b"\x00\x1b"}[kind]
    return content[:place] + new + content[place:]


_BYTE_MUTATIONS: list[Mutation] = [
    _flip, _flip, _replace, _zero, _truncate, _remove, _insert, _append, _duplicate, _splice, _word,
]  # fmt: skip
_TEXT_MUTATIONS: list[Mutation] = [
    _lines(_drop_line), _lines(_double_line), _lines(_shuffle_lines), _lines(_blank_line), _delimiters, _field, _field,
    _encoding, mutate_bytes, mutate_bytes,
]  # fmt: skip
