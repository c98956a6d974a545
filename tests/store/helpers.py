"""Helpers of the tests of snapshots: headers written with other content."""

import json

import tomli_w
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrbench.store.snapshots import encode, hash_tensors, read_metadata


def write_unsealed(path, tensors, text):
    """A snapshot whose header was not written by this version."""
    save_file(tensors, path, metadata={"lrbench": text if isinstance(text, str) else json.dumps(text)})


def header_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lrbench"])


def change_header(path, **changes):
    """Change fields of a header without updating its hash."""
    write_unsealed(path, load_file(path), header_of(path) | changes)


def write_version_1(path, **changes):
    """The snapshot as it was written before headers had a hash."""
    record = {name: value for name, value in header_of(path).items() if name != "header_sha256"}
    write_unsealed(path, load_file(path), record | {"format": 1} | changes)


def toml(value):
    return (
        tomli_w.dumps({"a": value}).partition("=")[2].strip()
        if not isinstance(value, dict)
        else ("{" + ", ".join(f"{key} = {json.dumps(inner)}" for key, inner in value.items()) + "}")
    )


def write_header(path, changes):
    """A snapshot as it would have been written with these values."""
    path.write_bytes(encode(load_file(path), header_of(path) | changes))


def write_tensors(path, tensors):
    """A snapshot as it would have been written with these tensors."""
    record = json.loads(read_metadata(path).model_dump_json())
    path.write_bytes(encode(tensors, {**record, "tensors_sha256": hash_tensors(tensors)}))
