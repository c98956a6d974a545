"""References: what a user types to name weights, resolved to one of four types.

A reference is a suite's snapshot, a file of weights, pretrained weights that timm or the Hugging Face Hub publish, or a network
that a function of the user's returns.
Resolving reads no weights; `lrbench.models.loading.load_snapshot` loads them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lrbench.config import Suite, suggestion
from lrbench.config.arms import ARMS
from lrbench.config.plugins import network_function, network_names
from lrbench.config.schedule import SnapshotKey, last_stage, owner
from lrbench.core.errors import InputError
from lrbench.core.files import user_path
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.store.snapshots import foreign_snapshots, snapshot_path
from lrbench.store.suites import effective_path, suite_in_use

_FORMS = (
    "stage2, arm/stage2, suite/arm/seed1/stage2, foreign/NAME, a .safetensors file, timm:NAME, hf-hub:OWNER/NAME or "
    "python:MODULE:FUNCTION"
)
OTHER_FORMATS = {".pth", ".pt", ".bin", ".ckpt"}
"""Endings of weights that `lrbench snapshots add` imports."""
_STAGE = re.compile(r"stage(\d+)$")
_SEED = re.compile(r"seed(-?\d+)$")


@dataclass(frozen=True, kw_only=True)
class SuiteSnapshot:
    """A snapshot of a suite: `quick/step/seed0/stage2`.

    Attributes:
        suite: The suite.
        key: Arm, pretraining seed and stage.
        checkpoints: The workspace's folder of snapshots.
    """

    suite: Suite
    key: SnapshotKey
    checkpoints: Path

    @property
    def text(self) -> str:
        """The reference in full."""
        return f"{self.suite.name}/{self.key}"

    @property
    def path(self) -> Path:
        """File of the snapshot, which may not exist yet."""
        return snapshot_path(self.checkpoints, self.suite.name, self.key)

    @property
    def results_folder(self) -> str:
        """Folder of its results."""
        return self.suite.name

    def outside_suite(self) -> "WeightsFile":
        """The same file as one that belongs to no suite, so that its results are stored in the folder `foreign`."""
        return WeightsFile(text=self.text, path=self.path)


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A safetensors file that belongs to no suite: `foreign/NAME` or a path.

    Attributes:
        text: `foreign/NAME`, the path relative to the workspace, or the absolute path of a file outside of it.
        path: The file, which may not exist.
    """

    text: str
    path: Path
    results_folder: ClassVar[str] = FOREIGN


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """Weights that are published under a name: `timm:NAME` or `hf-hub:OWNER/NAME`.

    Attributes:
        source: `timm` or `hf-hub`.
        name: The name without the source.
    """

    source: str
    name: str
    results_folder: ClassVar[str] = FOREIGN

    @property
    def text(self) -> str:
        """The reference in full."""
        return f"{self.source}:{self.name}"

    @property
    def timm_name(self) -> str:
        """The name that `timm.create_model` takes: without `timm:`, but with `hf-hub:`."""
        return self.name if self.source == "timm" else self.text

    @property
    def is_random(self) -> bool:
        """True for a timm architecture without a tag, whose weights are random."""
        return self.source == "timm" and "." not in self.name


@dataclass(frozen=True, kw_only=True)
class PythonModel:
    """A network that a function of the user's returns: `python:package.module:function`, or `python:NAME` of a plug-in.

    Attributes:
        text: The reference in full.
        function: `package.module:function`; empty if `build` is given.
        build: The function; None to import it.
    """

    text: str
    function: str = ""
    build: Callable[[], object] | None = field(default=None, compare=False)
    results_folder: ClassVar[str] = FOREIGN


Reference = SuiteSnapshot | WeightsFile | PretrainedWeights | PythonModel


def resolve_reference(
    text: str, workspace: Workspace, *, suite: str | None = None, arm: str | None = None
) -> Reference:
    """Resolve what a user typed. The file of a suite's snapshot or of a `.safetensors` path need not exist.

    Args:
        text: `stage2`, `arm/stage2`, `suite/stage2`, `arm/seed1/stage2`, `suite/arm/seed1/stage2`, `foreign/NAME`, the path
            of a `.safetensors` file (relative to the current folder, else to the workspace), `timm:NAME` or
            `hf-hub:OWNER/NAME`, or `python:package.module:function`.
        workspace: Holds the snapshots.
        suite: Suite of a reference that names none; None for the one pretrained last.
        arm: Arm of a reference that names none; None for `step`.

    Raises:
        InputError: Not a reference, or the suite has no such arm, seed or stage.
    """
    source, colon, name = text.partition(":")
    if colon and source in ("timm", "hf-hub"):
        if not name or (source == "hf-hub" and name.count("/") != 1):
            raise InputError(f"{text!r} names no model. Write timm:NAME (timm:resnet50.a1_in1k) or hf-hub:OWNER/NAME.")
        return PretrainedWeights(source=source, name=name)
    if colon and source == "python":
        return _resolve_function(text, name)
    return _resolve_file(text, workspace) or _resolve_snapshot(text, workspace, suite, arm)


def _resolve_function(text: str, name: str) -> PythonModel:
    if (function_of_plugin := network_function(name)) is not None:
        return PythonModel(text=text, function=function_of_plugin)
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), function)):
        known = f" or the name of a plug-in ({', '.join(network_names())})" if network_names() else ""
        raise InputError(
            f"{text!r} names no function. Write python:package.module:function, without parentheses{known}."
        )
    return PythonModel(text=text, function=name)


def _resolve_file(text: str, workspace: Workspace) -> WeightsFile | None:
    """Return the file that a text names, or None if it is not written as a path or as `foreign/NAME`.

    Raises:
        InputError: It is written as one and names no file of weights.
    """
    path = user_path(text)
    if text.endswith(".safetensors") or path.is_file():
        in_workspace = workspace.root / path
        return _weights_file(path if path.is_file() or not in_workspace.is_file() else in_workspace, workspace)
    foreign = workspace.checkpoints / f"{text}.safetensors" if text.startswith(f"{FOREIGN}/") else None
    if foreign is not None and foreign.is_file():
        return _weights_file(foreign, workspace)
    if path.suffix in OTHER_FORMATS or text.endswith("/") or text.startswith(("/", "./", "../", "~")):
        if path.is_dir():
            raise InputError(f"{text} is a folder. Name one snapshot in it.")
        kind = "folder" if text.endswith("/") else "file" if path.suffix else "file or folder"
        raise InputError(f"there is no {kind} {text}.")
    if foreign is not None:
        names = foreign_snapshots(workspace)
        raise InputError(
            f"there is no snapshot {text}.{suggestion(text, names)} Foreign snapshots: {', '.join(names) or 'none'}. "
            "Add one with `lrbench snapshots add FILE --architecture NAME`."
        )
    return None


def _weights_file(path: Path, workspace: Workspace) -> WeightsFile:
    """Return a file under one text however its path is typed, because results are named by that text."""
    absolute = os.path.abspath(path)
    # The current folder has no links in its path; LRBENCH_HOME may have some.
    for root in (os.path.abspath(workspace.root), os.path.realpath(workspace.root)):
        relative = os.path.relpath(absolute, root)
        if relative.startswith(".."):
            continue
        folder, _, name = relative.rpartition("/")
        if folder == f"{workspace.checkpoints.name}/{FOREIGN}" and name.endswith(".safetensors"):
            return WeightsFile(text=f"{FOREIGN}/{name.removesuffix('.safetensors')}", path=path)
        return WeightsFile(text=relative, path=path)
    return WeightsFile(text=absolute, path=path)


def _resolve_snapshot(text: str, workspace: Workspace, suite_name: str | None, arm: str | None) -> SuiteSnapshot:
    parts = text.strip("/").split("/")
    stage = _STAGE.match(parts[-1])
    if stage is None or len(parts) > 4:
        raise InputError(f"{text!r} is not a snapshot reference.{_suggestion(text, workspace)} Write {_FORMS}.")
    seed = None
    rest = parts[:-1]
    if rest and (match := _SEED.match(rest[-1])):
        seed = int(match[1])
        rest = rest[:-1]
    if len(rest) == 2:
        suite_name, rest = rest[0], rest[1:]
    elif rest and suite_name is None and rest[0] not in ARMS and effective_path(workspace, rest[0]).is_file():
        suite_name, rest = rest[0], []
    if rest:
        arm = rest[0]
    suite = suite_in_use(workspace, suite_name)
    key = _snapshot_key(suite, arm or "step", suite.seeds[0] if seed is None else seed, int(stage[1]))
    return SuiteSnapshot(suite=suite, key=key, checkpoints=workspace.checkpoints)


def _snapshot_key(suite: Suite, arm: str, seed: int, stage: int) -> SnapshotKey:
    if arm not in suite.arms:
        raise InputError(
            f"suite {suite.name} has no arm {arm!r}.{suggestion(arm, suite.arms)} It has {', '.join(suite.arms)}."
        )
    if seed not in suite.seeds:
        raise InputError(f"suite {suite.name} has no seed {seed}. It has {', '.join(map(str, suite.seeds))}.")
    last = last_stage(arm, suite.schedule)
    if stage > last:
        raise InputError(
            f"arm {arm} of suite {suite.name} has no stage{stage}. It has stage0 (the initialisation) to stage{last}."
        )
    return SnapshotKey(arm=owner(arm, stage, suite.schedule), seed=seed, stage=stage)


def _suggestion(text: str, workspace: Workspace) -> str:
    import timm

    foreign = foreign_snapshots(workspace)
    if f"{FOREIGN}/{text}" in foreign:
        return f" Did you mean '{FOREIGN}/{text}'?"
    if timm.is_model(text.partition(".")[0]):
        return f" Did you mean 'timm:{text}'?"
    return suggestion(text, [*(f"stage{number}" for number in re.findall(r"\d+", text)[-1:]), *foreign])


def resolve_partner(reference: Reference, text: str, workspace: Workspace) -> Reference:
    """Resolve the snapshot whose features the protocol `concat` adds.

    Args:
        reference: The snapshot that is transferred.
        text: `concat.partner`: an arm and stage of the same suite and seed, or a reference in full.
        workspace: Holds the snapshots.

    Raises:
        InputError: Not a reference, or it needs a suite and `reference` belongs to none.
    """
    arm, _, name = text.rpartition("/")
    stage = _STAGE.match(name)
    if stage is None or "/" in arm:
        return resolve_reference(text, workspace)
    if not isinstance(reference, SuiteSnapshot):
        raise InputError(
            f"concat.partner is {text!r}, a snapshot of the same suite, but {reference.text} belongs to no suite. "
            "Name the other snapshot in full, as in --set concat.partner=timm:resnet50.a1_in1k."
        )
    suite = reference.suite
    key = _snapshot_key(suite, arm or "step", reference.key.seed, int(stage[1]))
    return SuiteSnapshot(suite=suite, key=key, checkpoints=workspace.checkpoints)


def missing_message(reference: SuiteSnapshot | WeightsFile) -> str:
    """The message for a snapshot whose file does not exist."""
    if isinstance(reference, WeightsFile):
        return f"there is no snapshot {reference.path}."
    return (
        f"there is no snapshot {reference.text} yet ({reference.path}). Create it with `lrbench pretrain "
        f"{reference.suite.name} --arm {reference.key.arm} --seed {reference.key.seed}`."
    )


def snapshot_file(reference: SuiteSnapshot | WeightsFile) -> Path:
    """Return the file of a reference.

    Raises:
        InputError: A suite's snapshot does not exist. A file that belongs to no suite is checked when it is read.
    """
    if isinstance(reference, SuiteSnapshot) and not reference.path.is_file():
        raise InputError(missing_message(reference))
    return reference.path
