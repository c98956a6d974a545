"""Tensors of foreign files, by name. No code in a file is run, and the user chooses among several sets of weights."""

import argparse
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import torch

from lrbench.core.errors import InputError, as_sentence
from lrbench.core.files import open_regular
from lrbench.models.tensors import load_tensors
from lrbench.store.file_kinds import file_kind


class _NumPyValue:
    """Placeholder for a NumPy value next to the weights, such as a best accuracy, which is not needed."""

    def __init__(self, *parts: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Types that training scripts save next to the weights: options, paths and NumPy values. Creating these runs no code of a file.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    PosixPath,
    (_NumPyValue, "numpy.dtype"),
    (_NumPyValue, "numpy.ndarray"),
    *(
        (_NumPyValue, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
]
# Prefixes that DistributedDataParallel and torch.compile put before each name.
_WRAPPERS = ("module.", "_orig_mod.")
# Types of weights and of counters.
_TYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
# Nesting of dictionaries: `classy_state_dict.base_model.model.trunk` and two more.
_DEEPEST = 6
_OPTIMISER = re.compile(r"opt(im(i[sz]ers?)?)?(_states?(_dicts?)?)?")
# Largest ratio of unpacked to packed bytes.
_MOST_UNPACKED = 8
# Names in one message.
_SHOWN = 12


def named_tensors(file: Path, key: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, without the prefixes of model wrappers.

    Args:
        file: safetensors, or a file of `torch.save` that loads with `weights_only=True`.
        key: Keys that lead to the set of weights, separated by dots. None if the file holds only one.

    Raises:
        InputError: The file is missing or damaged, would run code, or holds several sets of weights, no tensors under the
            key, or tensors of unsupported types.
    """
    if file.is_dir():
        raise InputError(f"{file} is a folder. Name the files in it.")
    try:
        kind = file_kind(file)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}.") from None
    if kind.form == "other":
        raise InputError(f"{file} was not loaded: {as_sentence(kind.description)} {kind.advice}".rstrip())
    content = load_tensors(file) if kind.form == "safetensors" else _load(file)
    content = _select(file, content, key)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state dict of named tensors.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise _no_tensors_error(file, content)
    for name, tensor in tensors.items():
        if not name.isprintable() or tensor.dtype not in _TYPES or tensor.layout != torch.strided or tensor.is_meta:
            raise InputError(
                f"{file} holds {name[:80]!r}, a tensor of type {str(tensor.dtype).removeprefix('torch.')} "
                f"({str(tensor.layout).removeprefix('torch.')}), which lrbench does not import. Save weights in float32 or "
                "float16."
            )
    # Wrappers may be nested.
    while tensors and (
        wrapper := next((prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)), "")
    ):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _select(file: Path, content: Any, key: str | None) -> Any:
    """Return the set of weights under a key; without a key, the only set, or the content itself.

    Raises:
        InputError: There is no set under the key, or there are several and no key.
    """
    sets = _sets(file, content)
    if key is not None:
        if key not in sets:
            raise InputError(
                f"{file} holds no weights under the key {key!r}; it holds {_listed(list(sets)) or 'none under a key'}."
            )
        return sets[key]
    counts = {name: _count(value) for name, value in sets.items()}
    # A single tensor, or fewer than at the top level, is no set of weights but a centre or a temperature.
    least = max(2 if max(counts.values(), default=0) > 1 else 1, 1 + _count(content))
    candidates = [name for name, count in counts.items() if count >= least]
    if len(candidates) > 1:
        raise InputError(f"{file} holds several sets of weights: {_listed(candidates)}. Choose one with --key.")
    return sets[candidates[0]] if candidates else content


def _no_tensors_error(file: Path, content: dict[Any, Any]) -> InputError:
    inner = [value for outer in content.values() for value in (outer.values() if isinstance(outer, dict) else (outer,))]
    if any(isinstance(value, _NumPyValue) for value in inner):
        return InputError(
            f"{file} holds NumPy arrays, not tensors. Convert them in the program that wrote it: "
            "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, FILE)."
        )
    items = _listed([f"{str(name)[:40]!r} ({type(value).__name__})" for name, value in content.items()])
    return InputError(f"{file} holds no tensors, so it is not a file of weights. It holds {items or 'nothing'}.")


def _count(content: Any) -> int:
    return sum(isinstance(value, torch.Tensor) for value in content.values()) if isinstance(content, dict) else 0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sets(file: Path, content: Any) -> dict[str, dict[Any, Any]]:
    """Return the nested dictionaries of a checkpoint that hold tensors, by the keys that lead to them, joined by dots.

    Raises:
        InputError: Two have the same name.
    """
    sets: dict[str, dict[Any, Any]] = {}
    # By identity, because a small file can refer to one dictionary millions of times.
    counts: dict[int, int] = {}
    seen: set[int] = set()

    def visit(within: dict[Any, Any], path: tuple[str, ...]) -> None:
        for key, value in within.items():
            # The state of an optimiser is not a set of weights.
            if (
                not isinstance(value, dict)
                or _OPTIMISER.fullmatch(str(key).lower())
                or (path and not isinstance(key, str))
            ):
                continue
            inner = (*path, str(key))
            if id(value) not in counts:
                counts[id(value)] = _count(value)
            if counts[id(value)]:
                name = ".".join(inner)
                if name in sets:
                    raise InputError(
                        f"{file} holds two sets of weights under {name!r}, which --key cannot distinguish. Save one of them to "
                        "a file."
                    )
                sets[name] = value
            # A dictionary next to a network's tensors is part of the network.
            if counts[id(value)] < 2 and len(inner) < _DEEPEST and id(value) not in seen:
                seen.add(id(value))
                visit(value, inner)

    if isinstance(content, dict):
        visit(content, ())
    return sets


def _load(file: Path) -> Any:
    if zipfile.is_zipfile(file):
        _refuse_damaged_archive(file)
    try:
        # Given a path, torch would interpret its suffix.
        with open_regular(file) as opened, torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # torch warns about kinds of files and tensors that are reported here.
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged files and refused pickles raise exceptions of several kinds.
        raise InputError(f"{file} was not loaded: {_load_failure(file)}") from error


def _refuse_damaged_archive(file: Path) -> None:
    """Refuse an archive that unpacks to far more bytes than it has, or whose parts differ from their checksums.

    Raises:
        InputError: The archive is refused.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        # torch.save does not compress.
        if unpacked > _MOST_UNPACKED * file.stat().st_size:
            raise InputError(
                f"{file} was not loaded: it unpacks to {unpacked:,} bytes, far more than the file has, which torch.save "
                "does not write. Copy it again."
            )
        damaged = [part.filename for part in parts if not _is_whole(archive, part)]
    # torch can write files without checksums; then all differ.
    if damaged and len(damaged) < len(parts):
        raise InputError(
            f"{file} was not loaded: it is damaged ({damaged[0]} differs from its checksum). Copy it again."
        )


def _is_whole(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as opened:
            while opened.read(1 << 20):
                pass
    except Exception:
        # Damaged archives raise exceptions of several kinds.
        return False
    return True


def _load_failure(file: Path) -> str:
    """Return why a file of torch.save was not loaded, and what to do."""
    saved = (
        "If you trust it, load it in the program that wrote it and save only its weights: "
        "torch.save(model.state_dict(), FILE), or better as safetensors."
    )
    try:
        with open_regular(file) as opened, torch.serialization.safe_globals(_HARMLESS):
            others = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(opened)))
    except Exception:
        # Files of old versions cannot be inspected without loading.
        others = []
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        return (
            f"besides tensors, numbers and text it holds {shown}, which could run code. Nothing in it was run. {saved}"
        )
    return (
        "it is damaged, or it holds more than tensors, numbers and text, which could run code. Nothing in it was run. "
        f"{saved}"
    )
