"""What pretraining and fine-tuning keep beside snapshots: states, progress, logs, timings and scores."""

import io
import random
from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_json_lines, mutate_value


def make_progress(folder: Path) -> Path:
    import torch

    from lrbench.pretraining.state import save

    path = folder / "stage1.progress.pt"
    weights = {"weight": torch.arange(6.0), "bias": torch.ones(2)}
    save(
        path,
        {
            "recipe": "a" * 64,
            "update": 4,
            "weights": weights,
            "momentum": weights,
            "mean": {},
            "mean_count": 0,
            "tail": {},
            "tail_count": 0,
            "kept": {1: weights},
            "kept_momentum": {1: weights},
            "loss": 1.5,
            "correct": 3,
            "records": [{"stage": 1, "update": 3}],
        },
    )
    return path


def use_progress(path: Path) -> object:
    from lrbench.core.errors import InputError
    from lrbench.pretraining.state import load, progress_of

    content = load(path)
    try:
        return vars(progress_of(content, first=3, last=9))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # The caller says so and begins again.
        raise InputError(str(error)) from error


def mutate_saved(numbers: random.Random, content: bytes) -> bytes:
    """Change what a state without a hash holds, and save it again."""
    import torch

    whole = torch.load(io.BytesIO(content), weights_only=True)
    # As files of format 2 are, which have no hash of their own.
    del whole["sha256"]
    whole["format"] = 2
    plain = {name: value for name, value in whole.items() if isinstance(value, int | float | str | list)}
    changed = mutate_value(numbers, plain)
    if isinstance(changed, dict):
        whole = {**{name: value for name, value in whole.items() if name not in plain}, **changed}
    for _ in range(numbers.choice([0, 1, 2])):
        table = numbers.choice([whole, *(value for value in whole.values() if isinstance(value, dict))])
        if table:
            table[numbers.choice([*table, "x", 3])] = numbers.choice(
                [None, 3, "x", {}, [], torch.ones(3), table, whole]
            )
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return buffer.getvalue()


def make_log(folder: Path) -> Path:
    from lrbench.pretraining.log import write_log

    records = [
        {
            "arm": "step",
            "seed": 0,
            "stage": 1 + epoch // 3,
            "epoch": epoch,
            "update": 3 * epoch,
            "loss": 1.5 / (epoch + 1),
        }
        for epoch in range(6)
    ]
    write_log(folder / "stage1.safetensors", 1, records, lambda text: None)
    return folder / "log.jsonl"


def use_log(path: Path) -> object:
    from lrbench.pretraining.log import write_log

    write_log(path.with_name("stage9.safetensors"), 9, [{"stage": 9, "update": 100}], lambda text: text.encode())
    return path.read_bytes()


def make_timings(folder: Path) -> Path:
    from lrbench.pretraining.log import append_timing

    place = folder / "step" / "seed0" / "stage1.safetensors"
    place.parent.mkdir(parents=True)
    for stage in range(3):
        append_timing(place, {"stage": stage, "updates": 10 + stage, "seconds": 2.5, "processes": 1, "device": "cpu"})
    return place.with_name("timings.jsonl")


def use_timings(path: Path) -> object:
    from lrbench.jobs.cost import update_seconds

    return update_seconds(path.parents[2])


def make_points(folder: Path) -> Path:
    from lrbench.transfer.protocols.points import Points

    points = Points(folder / "points.json")
    points.add((0.1, 0.0, 5), {"score": 0.5}, 2.0)
    points.add((0.01, 1e-4, 5), {"score": 0.0, "diverged": True, "updates": 3}, 1.5)
    return folder / "points.json"


def use_points(path: Path) -> object:
    from lrbench.core.errors import InputError
    from lrbench.transfer.protocols.points import Points

    points = Points(path)
    if not len(points):
        raise InputError("counts as none")
    return [points.get((0.1, 0.0, 5)), points.get((0.01, 1e-4, 5)), len(points), points.earlier_seconds]


TARGETS = [
    Target(name="progress-bytes", make=make_progress, mutate=mutate_bytes, use=use_progress, covered=True),
    Target(name="progress-content", make=make_progress, mutate=mutate_saved, use=use_progress),
    Target(name="log", make=make_log, mutate=mutate_json_lines, use=use_log),
    Target(name="timings", make=make_timings, mutate=mutate_json_lines, use=use_timings),
    Target(name="finetuning-points", make=make_points, mutate=mutate_json, use=use_points, covered=True),
]
