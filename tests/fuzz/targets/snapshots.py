"""Snapshots, their BatchNorm statistics, and files of weights from elsewhere."""

import io
import json
import random
from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_bytes, mutate_json_values, mutate_safetensors, one_of

NETWORK = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_type": "deep", "stem_width": 4}


def make_snapshot_file(folder: Path) -> Path:
    import torch

    from lrbench.models.networks import create_model
    from lrbench.store.snapshots import SnapshotMetadata, write_snapshot

    model = create_model("resnet18", NETWORK, classes=3, seed=1)
    batchnorm = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items() if "running_" in name}
    metadata = SnapshotMetadata(
        architecture="resnet18",
        arguments=NETWORK,
        classes=3,
        input={"size": 32},
        suite="tiny",
        arm="step",
        stage=1,
        seed=0,
        epoch=3,
        update=9,
        rate=0.1,
        parent="step/seed0/stage0",
        parent_sha256="a" * 64,
        kept={2: True},
        recipe="b" * 64,
        source_accuracy=0.5,
        source_report={"simple": 0.75},
        versions={"torch": "2"},
    )
    path = folder / "stage1.safetensors"
    write_snapshot(path, model.state_dict(), metadata, batchnorm, {"images": 3})
    return path


def make_statistics(folder: Path) -> Path:
    from lrbench.store.snapshots import batchnorm_path

    return batchnorm_path(make_snapshot_file(folder))


def make_older_snapshot(folder: Path) -> Path:
    """A snapshot whose header has no hash."""
    from safetensors.torch import load_file, save_file

    path = make_snapshot_file(folder)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    record = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["lrbench"])
    del record["header_sha256"]
    save_file(load_file(path), path, metadata={"lrbench": json.dumps(record | {"format": 1})})
    return path


def use_snapshot(path: Path) -> object:
    from lrbench.models.loading import load_snapshot
    from lrbench.store.references import WeightsFile
    from lrbench.store.snapshots import batchnorm_mode

    weights = path.with_name("stage1.safetensors")
    loaded = load_snapshot(WeightsFile(text="stage1", path=weights))
    return loaded.metadata.model_dump(), dict(loaded.model.state_dict()), batchnorm_mode(weights, loaded.metadata)


def use_older_snapshot(path: Path) -> object:
    from lrbench.models.verification import verify_snapshot

    verify_snapshot(path)
    return use_snapshot(path)


def mutate_record(numbers: random.Random, content: bytes) -> bytes:
    """Mutate values of lrbench's own record in the header."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    record = mutate_json_values(numbers, header["__metadata__"]["lrbench"].encode())
    header["__metadata__"]["lrbench"] = record.decode(errors="replace")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def make_checkpoint(folder: Path) -> Path:
    import torch

    from lrbench.models.networks import create_model

    weights = create_model("resnet18", NETWORK, classes=3, seed=1).state_dict()
    path = folder / "checkpoint.pth"
    torch.save({"epoch": 3, "model": weights, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "groups": []}}, path)
    return path


def use_checkpoint(path: Path) -> object:
    from lrbench.models.foreign import ImportOptions, import_weights
    from lrbench.models.tensors import load_tensors
    from lrbench.store.snapshots import read_metadata

    (path.parent / "taken").mkdir(exist_ok=True)
    (path.parent / "taken" / "mine.safetensors").unlink(missing_ok=True)
    taken = import_weights(
        path, ImportOptions(architecture="resnet18", arguments=NETWORK), path.parent / "taken", "mine"
    )
    return read_metadata(taken.path).model_dump(), load_tensors(taken.path)


def mutate_checkpoint(numbers: random.Random, content: bytes) -> bytes:
    """Change what a checkpoint holds, and save it again."""
    import torch

    whole = torch.load(io.BytesIO(content), weights_only=True)
    tables = [whole, whole["model"], whole["model"], whole["optimizer"]]
    for _ in range(numbers.choice([1, 1, 2, 3])):
        table = numbers.choice(tables)
        name = numbers.choice(list(table) or ["x"])
        value = numbers.choice(
            [
                None, 3, "x", float("nan"), [], {}, table, whole, torch.ones(()), torch.ones(0), torch.ones(1).expand(10**9),
                torch.ones(3, dtype=torch.int8), torch.ones(2, dtype=torch.complex64), torch.full((3,), float("nan")),
                table.get(name), {name: table.get(name)},
            ]
        )  # fmt: skip
        if numbers.random() < 0.3:
            table.pop(name, None)
        table[numbers.choice([name, f"module.{name}", "", "\x1b[2J", 7, f"{name}.extra"])] = value
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return buffer.getvalue()


TARGETS = [
    Target(
        name="snapshot-header",
        make=make_snapshot_file,
        mutate=one_of(mutate_safetensors, mutate_record),
        use=use_snapshot,
        covered=True,
    ),
    Target(
        name="snapshot-statistics",
        make=make_statistics,
        mutate=one_of(mutate_safetensors, mutate_record),
        use=use_snapshot,
        covered=True,
    ),
    Target(name="snapshot-older", make=make_older_snapshot, mutate=mutate_record, use=use_older_snapshot),
    Target(name="foreign-bytes", make=make_checkpoint, mutate=mutate_bytes, use=use_checkpoint),
    Target(name="foreign-content", make=make_checkpoint, mutate=mutate_checkpoint, use=use_checkpoint),
]
