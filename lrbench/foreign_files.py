"""From a file of somebody else's to tensors by name: nothing in it is run, and of several sets of weights none is guessed."""

import argparse
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import torch

from lrbench.errors import InputError
from lrbench.weights import load_tensors


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
    if not file.is_file():
        raise InputError(f"there is no file {file}.")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty. Copy it again.")
    content = load_tensors(file) if file.suffix.lower() == ".safetensors" else _loaded(file)
    content = _meant(file, content, key)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state dict of named tensors.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
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


def _count(content: Any) -> int:
    return sum(isinstance(each, torch.Tensor) for each in content.values()) if isinstance(content, dict) else 0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sets(file: Path, content: Any) -> dict[str, dict[Any, Any]]:
    """The dictionaries that hold tensors within a checkpoint, by the keys that lead there with dots between them.

    Raises:
        InputError: Two have one name.
    """
    found: dict[str, dict[Any, Any]] = {}

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
            if _count(value):
                name = ".".join(inner)
                if name in found:
                    raise InputError(
                        f"{file} holds two sets of weights under {name!r}, which --key cannot tell apart. Save the one that "
                        "is meant by itself."
                    )
                found[name] = value
            # What lies beside the tensors of a network is a part of it.
            if _count(value) < 2 and len(inner) < _DEEPEST:
                look(value, inner)

    if isinstance(content, dict):
        look(content, ())
    return found


def _loaded(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of torch's own, about kinds of file and tensor that are told of here or are of no concern.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged files and forbidden pickles each end in several kinds of exception.
        raise InputError(f"{file} was not loaded: {_not_loaded(file)}") from error


def _not_loaded(file: Path) -> str:
    """Why a file that is not safetensors was not loaded, and what to do; nothing in it is run."""
    with file.open("rb") as opened:
        start = opened.read(64)
    if not start.startswith((b"PK", b"\x80")):
        if start.lstrip()[:1] == b"<":
            return "it is a web page. Download the file itself."
        if start.startswith(b"version https://git-lfs"):
            return "it only says where Git LFS keeps the file. Fetch it with `git lfs pull`."
        return "it is no file that torch.save writes. Name the file of weights, or a .safetensors file."
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        return "it is cut short. Copy it again."
    saved = (
        "Where you trust it, load it in the program that made it and save its weights alone: "
        "torch.save(model.state_dict(), FILE), best as safetensors."
    )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            others = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
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
