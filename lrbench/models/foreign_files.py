"""From a file of somebody else's to tensors by name: nothing in it is run, and of several sets of weights none is guessed."""

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
    """What stands for a value of NumPy's beside the weights, as the best accuracy so far: nobody asks for it."""

    def __init__(self, *parts: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What training scripts keep beside the weights: a bag of values, paths, and numbers of NumPy's, in place of which nothing of
# NumPy's is made; making these runs nothing.
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
# Put before each name by those that wrap a model.
_WRAPPERS = ("module.", "_orig_mod.")
# Of weights and of what counts beside them.
_KINDS = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
# Dictionaries within each other, as `classy_state_dict.base_model.model.trunk`, and two more.
_DEEPEST = 6
_OPTIMISER = re.compile(r"opt(im(i[sz]ers?)?)?(_states?(_dicts?)?)?")
# Bytes that a byte of an archive may unpack to.
_MOST_UNPACKED = 8
# Names in a message.
_SHOWN = 12


def named_tensors(file: Path, key: str | None) -> dict[str, torch.Tensor]:
    """The tensors of a file, without the words that wrapped models put before each name.

    Args:
        file: safetensors, or a file of `torch.save` that loads with `weights_only=True`.
        key: Which of its sets of weights, where it holds several: the keys that lead to it, with dots between them.

    Raises:
        InputError: It is missing or damaged, would run code, or holds several sets of weights, no tensors under the key, or
            tensors of a kind that no weights are.
    """
    if file.is_dir():
        raise InputError(f"{file} is a folder. Name the files in it.")
    try:
        kind = file_kind(file)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}.") from None
    if kind.form == "other":
        raise InputError(f"{file} was not loaded: {as_sentence(kind.description)} {kind.advice}".rstrip())
    content = load_tensors(file) if kind.form == "safetensors" else _loaded(file)
    content = _meant(file, content, key)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state dict of named tensors.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise _holds_no_tensors(file, content)
    for name, tensor in tensors.items():
        if not name.isprintable() or tensor.dtype not in _KINDS or tensor.layout != torch.strided or tensor.is_meta:
            raise InputError(
                f"{file} holds {name[:80]!r}, a tensor of kind {str(tensor.dtype).removeprefix('torch.')} "
                f"({str(tensor.layout).removeprefix('torch.')}), which lrbench does not take in. Save plain weights in "
                "single or half precision."
            )
    # One may be put around another.
    while tensors and (
        wrapper := next((each for each in _WRAPPERS if all(name.startswith(each) for name in tensors)), "")
    ):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _meant(file: Path, content: Any, key: str | None) -> Any:
    """The set of weights that is meant among those that training scripts keep under names, or the content itself.

    Raises:
        InputError: There are several and none is named, or none is under that key.
    """
    held = _sets(file, content)
    if key is not None:
        if key not in held:
            raise InputError(
                f"{file} holds no weights under the key {key!r}; it holds {_listed(list(held)) or 'none under a key'}."
            )
        return held[key]
    counts = {name: _count(value) for name, value in held.items()}
    # One tensor by itself is a centre or a temperature beside others, and so are a few beside a whole set.
    least = max(2 if max(counts.values(), default=0) > 1 else 1, 1 + _count(content))
    found = [name for name, count in counts.items() if count >= least]
    if len(found) > 1:
        raise InputError(
            f"{file} holds several sets of weights: {_listed(found)}. Say with --key which of them is meant."
        )
    return held[found[0]] if found else content


def _holds_no_tensors(file: Path, content: dict[Any, Any]) -> InputError:
    inner = [value for outer in content.values() for value in (outer.values() if isinstance(outer, dict) else (outer,))]
    if any(isinstance(value, _NumPyValue) for value in inner):
        return InputError(
            f"{file} holds NumPy arrays, not tensors. Turn them into tensors in the program that made it: "
            "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, FILE)."
        )
    held = _listed([f"{str(name)[:40]!r} ({type(value).__name__})" for name, value in content.items()])
    return InputError(f"{file} holds no tensors, so it is no file of weights. It holds {held or 'nothing'}.")


def _count(content: Any) -> int:
    return sum(isinstance(value, torch.Tensor) for value in content.values()) if isinstance(content, dict) else 0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sets(file: Path, content: Any) -> dict[str, dict[Any, Any]]:
    """The dictionaries that hold tensors within a checkpoint, by the keys that lead there with dots between them.

    Raises:
        InputError: Two have one name.
    """
    sets: dict[str, dict[Any, Any]] = {}
    # By identity: a small file can hold one dictionary in millions of places.
    counts: dict[int, int] = {}
    seen: set[int] = set()

    def look(within: dict[Any, Any], path: tuple[str, ...]) -> None:
        for key, value in within.items():
            # What an optimiser keeps of each weight is no set of weights, whether by its number or by its name.
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
                        f"{file} holds two sets of weights under {name!r}, which --key cannot tell apart. Save the one that "
                        "is meant by itself."
                    )
                sets[name] = value
            # What lies beside the tensors of a network is a part of it.
            if counts[id(value)] < 2 and len(inner) < _DEEPEST and id(value) not in seen:
                seen.add(id(value))
                look(value, inner)

    if isinstance(content, dict):
        look(content, ())
    return sets


def _loaded(file: Path) -> Any:
    if zipfile.is_zipfile(file):
        _refuse_damaged_archive(file)
    try:
        # Given a path, torch would look at its ending.
        with open_regular(file) as opened, torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of torch's own, about kinds of file and tensor that are told of here or are of no concern.
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged files and forbidden pickles each end in several kinds of exception.
        raise InputError(f"{file} was not loaded: {_not_loaded(file)}") from error


def _refuse_damaged_archive(file: Path) -> None:
    """Refuse an archive that unpacks to far more than it has, or whose parts differ from their checksums.

    Raises:
        InputError: It is such a one.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        # torch.save compresses nothing.
        if unpacked > _MOST_UNPACKED * file.stat().st_size:
            raise InputError(
                f"{file} was not loaded: it unpacks to {unpacked:,} bytes, far more than it has, as no file of torch.save "
                "does. Copy it again."
            )
        damaged = [part.filename for part in parts if not _is_whole(archive, part)]
    # torch can be told to write no checksums; then none is right.
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
        # Damaged lengths, names and methods of compression end in exceptions of several kinds.
        return False
    return True


def _not_loaded(file: Path) -> str:
    """Why a file of torch.save was not loaded, and what to do; nothing in it is run."""
    saved = (
        "Where you trust it, load it in the program that made it and save its weights alone: "
        "torch.save(model.state_dict(), FILE), best as safetensors."
    )
    try:
        with open_regular(file) as opened, torch.serialization.safe_globals(_HARMLESS):
            others = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(opened)))
    except Exception:
        # Files of old versions cannot be looked into without loading.
        others = []
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        return (
            f"beside tensors, numbers and words it holds {shown}, which could run code. Nothing in it was run. {saved}"
        )
    return (
        "it is damaged, or it holds more than tensors, numbers and words, which could run code. Nothing in it was run. "
        f"{saved}"
    )
