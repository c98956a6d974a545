"""What a suite leaves in a workspace that must not depend on the engine."""

import hashlib
import json
from pathlib import Path
from typing import Any


def weights(home: Path) -> dict[str, str]:
    """Return the SHA-256 of every snapshot and log of a workspace."""
    checkpoints = home / "checkpoints"
    paths = [*checkpoints.rglob("*.safetensors"), *checkpoints.rglob("log.jsonl")]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def outcomes(home: Path) -> dict[str, dict[str, Any]]:
    """Return every result without its times."""
    records = {}
    for path in (home / "leaderboard" / "results").rglob("*.seed*.json"):
        records[path.name] = json.loads(path.read_text())
        for timed in ("timings", "computed", "record_sha256"):
            records[path.name].pop(timed)
    return records
