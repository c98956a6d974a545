"""Time the leaderboard of large suites: `python benchmark/speed/many_results.py [NUMBER]` (default 100,000).

Writes random results to a temporary workspace, then measures the time and peak memory of `lrbench leaderboard`, process start
included: without an index, with the index, and after one result changes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np

from lrbench.config import load_suite
from lrbench.config.schedule import snapshot_keys
from lrbench.core.files import sha256_bytes
from lrbench.core.workspace import Workspace
from lrbench.store.predictions import Predictions, encode_predictions
from lrbench.store.results import Result, complete_record, result_path
from lrbench.store.suites import write_suite_with_results

_IMAGES, _CLASSES, _POOL = 200, 10, 300
# A suite may have a million cells, counted as if every arm had snapshots of its own.
_MOST_SEEDS = 150
_PROTOCOLS = ("probe", "knn", "finetune")


def fill(root: Path, number: int) -> int:
    """Write about `number` results of suites with 20 targets, 3 protocols and 4 transfer seeds; return their count."""
    quick = load_suite("quick")
    targets = tuple(f"target-{index:02d}" for index in range(20))
    transfer_seeds = (0, 1, 2, 3)
    per_seed = len(snapshot_keys(quick, seed=0)) * len(targets) * len(_PROTOCOLS) * len(transfer_seeds)
    seeds = max(1, number // per_seed)
    workspace = Workspace(root=root)
    draw = np.random.default_rng(0)
    labels = np.arange(_IMAGES) % _CLASSES
    pool = []
    for index in range(_POOL):
        wrong = draw.random(_IMAGES) < 0.2 + 0.5 * index / _POOL
        prediction = np.where(wrong, (labels + 1) % _CLASSES, labels)
        content = encode_predictions(Predictions(index=np.arange(_IMAGES), label=labels, prediction=prediction))
        pool.append((content, sha256_bytes(content), float(1 - wrong.mean())))
    written = 0
    for first in range(0, seeds, _MOST_SEEDS):
        suite = quick.model_copy(
            update={
                "name": f"large{first}",
                "targets": targets,
                "protocols": _PROTOCOLS,
                "transfer_seeds": transfer_seeds,
                "seeds": tuple(range(first, min(first + _MOST_SEEDS, seeds))),
            }
        )
        write_suite_with_results(workspace, suite)
        for key in snapshot_keys(suite):
            for task, protocol, seed in product(targets, _PROTOCOLS, transfer_seeds):
                content, digest, accuracy = pool[int(draw.integers(_POOL))]
                record = complete_record(_record(suite.name, key, task, protocol, seed, accuracy), digest)
                path = result_path(workspace.results, suite.name, Result.model_validate(record).cell)
                path.with_suffix(".parquet").write_bytes(content)
                path.write_text(json.dumps(record))
                written += 1
    return written


def _record(suite, key, task, protocol, seed, accuracy):
    return {
        "protocol_version": 1,
        "suite": suite,
        "snapshot": {
            "reference": f"{suite}/{key}",
            "sha256": f"{key.arm}{key.seed}{key.stage}".ljust(64, "0"),
            "batchnorm": "re-estimated",
            "architecture": "resnet18",
            "arm": key.arm,
            "stage": key.stage,
            "pretraining_seed": key.seed,
            "source_task": "toy-source",
            "source_fingerprint": "f" * 64,
            "source_accuracy": 0.1 + 0.1 * key.stage + 0.001 * (key.seed % 100),
        },
        "task": {"name": task, "fingerprint": sha256_bytes(task.encode()), "classes": _CLASSES, "metric": "top1"},
        "protocol": protocol,
        "seed": seed,
        "preprocessing": {"size": 48},
        "partial": False,
        "metrics": {"top1": accuracy, "top5": 1.0, "mean_per_class": accuracy},
        "train_count": 500,
        "test_count": _IMAGES,
        "chosen": {"strength": 1.0},
        "selection": {"metric": "top1", "edge": False, "candidates": [{"strength": 1.0, "score": accuracy}] * 9},
        "diagnostics": {},
        "settings": {"protocol": {"strengths": 9}},
        "timings": {"fit": 0.1},
        "device": "cpu",
        "versions": {"lrbench": "0"},
    }


def timed(root: Path, what: str) -> None:
    """Run `lrbench leaderboard` and print its time, processor time and peak memory."""
    code = (
        "import atexit, resource, sys\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF)\n"
        "atexit.register(lambda: print(used().ru_utime + used().ru_stime, used().ru_maxrss // 1024, file=sys.stderr))\n"
        "from lrbench.cli import main\nsys.argv = ['lrbench', 'leaderboard']\nmain()\n"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LRBENCH_HOME": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    cores, peak = done.stderr.split()[-2:]
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.1f} s, {float(cores):.1f} s of processor time, peak {peak} MiB", flush=True)


def main() -> None:
    """Write the results and time the three cases."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written = fill(root, number)
        print(f"{written:,} results in {root}", flush=True)
        timed(root, "without an index")
        timed(root, "with the index")
        path = next((root / "leaderboard" / "results" / "large0").glob("step-seed0-stage1.*.json"))
        os.utime(path)
        timed(root, "after one result was rewritten")


if __name__ == "__main__":
    main()
