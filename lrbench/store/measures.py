"""Measures beside accuracy that a result holds: of its features, of their similarity, and accuracies along a curve."""

from collections.abc import Iterator
from typing import Any, Literal

from lrbench.config.protocols import HIT_BLOCKS
from lrbench.config.relatives import RELATIVES
from lrbench.store.results import Result

FEATURES = ("nc1", "nc2", "class_separation", "effective_rank", "feature_norm")
"""Measures of features (`lrbench.transfer.diagnostics.describe_features`)."""


FIT = (
    "loss",
    "largest_eigenvalue",
    "gradient_norm",
    "weight_norm",
    "noise_scale",
    "mean_cosine",
    "smallest_cosine",
    "batch_sharpness",
)
"""Measures of the fit to training images of the source (`lrbench.transfer.fit.describe_fit`)."""


def measures_of(result: Result) -> dict[str, float]:
    """Return the measures of a result by name.

    Returns:
        Those of `FEATURES` of the target's images, and with the prefix `source_` of the source's; `cka_` with a name of
        `RELATIVES`; `rule_` with a rule's name, the epoch at which it would have ended the snapshot's stage, or 0 if it would
        not; `shots_K`, the headline metric with K training images per class; `depth_K`, the validation score of the
        probe after the K-th stage of the network; `hits_` with a name of `HIT_BLOCKS`, the number of its images; `fit_` with a
        name of `FIT`.
    """
    return {name: value for name, value in _measures(result) if isinstance(value, int | float)}


def curve_of(measures: dict[str, float], prefix: Literal["shots_", "depth_"]) -> dict[int, float]:
    """Return the measures of a curve by their numbers, in rising order; empty if the result has no such curve."""
    names = [name for name in measures if name.startswith(prefix)]
    return dict(sorted((int(name.removeprefix(prefix)), measures[name]) for name in names))


def _measures(result: Result) -> Iterator[tuple[str, Any]]:
    diagnostics = result.diagnostics
    for prefix, entry in (("", "features"), ("source_", "source_features")):
        described = _table(diagnostics.get(entry))
        yield from ((f"{prefix}{name}", described.get(name)) for name in FEATURES)
    similarity = _table(diagnostics.get("similarity"))
    yield from ((f"cka_{name}", _table(similarity.get(name)).get("cka")) for name in RELATIVES)
    hits = _table(diagnostics.get("hits"))
    yield from ((f"hits_{block}", hits.get(block)) for block in HIT_BLOCKS)
    yield from ((f"rule_{name}", epoch or 0) for name, epoch in result.snapshot.stage_rules.items())
    fit = _table(diagnostics.get("fit"))
    yield from ((f"fit_{name}", fit.get(name)) for name in FIT)
    if "shots" in result.chosen:
        curve = {
            shots: _table(scores).get(result.task.metric) for shots, scores in _table(diagnostics.get("shots")).items()
        }
        curve[str(result.chosen["shots"])] = result.headline
        yield from ((f"shots_{shots}", value) for shots, value in curve.items() if shots.isdecimal())
    for candidate in result.selection.get("candidates", []):
        if isinstance(candidate.get("depth"), int):
            yield f"depth_{candidate['depth']}", candidate.get("score")


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
