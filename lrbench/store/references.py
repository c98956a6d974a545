"""What a user types to name a snapshot, and the file that it means."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lrbench.config import Suite, suggestion
from lrbench.config.arms import SnapshotKey, last_stage, owner
from lrbench.config.suite import ArmName
from lrbench.core.errors import InputError
from lrbench.core.files import user_path
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.store.snapshots import snapshot_files, snapshot_path, snapshots_taken_in
from lrbench.store.suites import effective_path, suite_in_use

_REMOTE = ("timm:", "hf-hub:")
# Files of weights in other forms, which `lrbench snapshots add` takes in.
_WEIGHTS = {".pth", ".pt", ".bin", ".ckpt"}
_STAGE = re.compile(r"stage(\d+)$")
_SEED = re.compile(r"seed(-?\d+)$")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A snapshot that was named.

    Attributes:
        text: The reference in full: `quick/step/seed0/stage2`, a path, `timm:NAME` or `hf-hub:OWNER/NAME`.
        path: Its file; None for `timm:` and `hf-hub:`.
        suite: The suite that it belongs to; None for foreign ones.
        key: Which of the suite's snapshots; None for foreign ones.
    """

    text: str
    path: Path | None = None
    suite: Suite | None = None
    key: SnapshotKey | None = None

    @property
    def results_folder(self) -> str:
        """Folder of its results."""
        return self.suite.name if self.suite else FOREIGN


def parse_reference(
    text: str,
    workspace: Workspace,
    *,
    suite: str | None = None,
    arm: str | None = None,
) -> Reference:
    """Find out which snapshot a reference means; whether its file is there is not looked at.

    Args:
        text: `stage2`, `arm/stage2`, `suite/stage2`, `arm/seed1/stage2`, `suite/arm/seed1/stage2`, the path of a
            `.safetensors` file (from where the process stands, or else from the workspace's root), `timm:NAME` or
            `hf-hub:OWNER/NAME`.
        workspace: Where the suites' snapshots lie.
        suite: Suite of a reference that names none; None for the one pretrained last.
        arm: Arm of a reference that names none; None for `step`.

    Raises:
        InputError: Not a reference, or a suite without such an arm, seed or stage.
    """
    if text.startswith(_REMOTE):
        kind, _, name = text.partition(":")
        if not name or (kind == "hf-hub" and name.count("/") != 1):
            raise InputError(f"{text!r} names no model. Write timm:NAME (timm:resnet50.a1_in1k) or hf-hub:OWNER/NAME.")
        return Reference(text=text)
    path = user_path(text)
    if text.endswith(".safetensors") or path.is_file():
        # As results call a file of this workspace, wherever the process stands.
        below = path if workspace is None else workspace.root / path
        return _of_file(path if path.is_file() or not below.is_file() else below, workspace)
    taken_in = workspace.checkpoints / f"{text}.safetensors" if text.startswith(f"{FOREIGN}/") else None
    if taken_in is not None and taken_in.is_file():
        return _of_file(taken_in, workspace)
    if path.suffix in _WEIGHTS or text.endswith("/") or text.startswith(("/", "./", "../", "~")):
        if path.is_dir():
            raise InputError(f"{text} is a folder. Name one snapshot in it.")
        kind = "folder" if text.endswith("/") else "file" if path.suffix else "file or folder"
        raise InputError(f"there is no {kind} {text}.")
    if taken_in is not None:
        there = snapshots_taken_in(workspace)
        raise InputError(
            f"there is no snapshot {text}.{suggestion(text, there)} Taken in here are: {', '.join(there) or 'none'}; "
            "`lrbench snapshots add FILE --architecture NAME` takes in others."
        )
    parts = text.strip("/").split("/")
    stage = _STAGE.match(parts[-1])
    if stage is None or len(parts) > 4:
        raise InputError(f"{text!r} is not a snapshot reference.{_meant(text, workspace)} Write {_FORMS}.")
    seed = None
    rest = parts[:-1]
    if rest and (match := _SEED.match(rest[-1])):
        seed = int(match[1])
        rest = rest[:-1]
    if len(rest) == 2:
        suite, rest = rest[0], rest[1:]
    elif rest and suite is None and rest[0] not in get_args(ArmName) and effective_path(workspace, rest[0]).is_file():
        suite, rest = rest[0], []
    if rest:
        arm = rest[0]
    chosen = suite_in_use(workspace, suite)
    key = _key(chosen, arm or "step", chosen.seeds[0] if seed is None else seed, int(stage[1]))
    return Reference(
        text=f"{chosen.name}/{key}", path=snapshot_path(workspace.checkpoints, chosen.name, key), suite=chosen, key=key
    )


def missing_here(reference: Reference) -> str:
    """What to say of a snapshot of a suite that is not there."""
    key, suite = reference.key, reference.suite
    if key is None or suite is None:
        return f"there is no snapshot {reference.path}."
    return (
        f"there is no snapshot {reference.text} here yet ({reference.path}). `lrbench pretrain {suite.name} --arm {key.arm} "
        f"--seed {key.seed}` makes it."
    )


def refuse_missing(reference: Reference) -> None:
    """Refuse a suite's snapshot that is not there; of other files, those who read them say what is wrong.

    Raises:
        InputError: Says how it is made.
    """
    if reference.key is not None and reference.path is not None and not reference.path.is_file():
        raise InputError(missing_here(reference))


def _of_file(path: Path, workspace: Workspace | None) -> Reference:
    """A file's reference: one text for it however and wherever its path was typed, or its results would be another snapshot's.

    It is the path from the workspace's root, where the file lies below it, and else the whole path.
    """
    root = Path() if workspace is None else workspace.root
    whole = os.path.abspath(path)
    # The folder that a process stands in is known without the links that LRBENCH_HOME may hold.
    for start in (os.path.abspath(root), os.path.realpath(root)):
        near = os.path.relpath(whole, start)
        if near.startswith(".."):
            continue
        folder, _, name = near.rpartition("/")
        if (
            workspace is not None
            and folder == f"{workspace.checkpoints.name}/{FOREIGN}"
            and name.endswith(".safetensors")
        ):
            return Reference(text=f"{FOREIGN}/{name.removesuffix('.safetensors')}", path=path)
        return Reference(text=near, path=path)
    return Reference(text=whole, path=path)


def partner_of(reference: Reference, text: str, workspace: Workspace) -> Reference:
    """The snapshot that the protocol `concat` sets beside another.

    Args:
        reference: The snapshot that is transferred.
        text: `concat.partner`: an arm and stage of the same suite and seed, or a reference in full.
        workspace: Where the suites' snapshots lie.

    Raises:
        InputError: Not a reference, or one that a snapshot of no suite leaves open.
    """
    in_suite = _STAGE.match(text.rpartition("/")[2]) is not None
    if not in_suite or text.count("/") > 1:
        return parse_reference(text, workspace)
    if reference.suite is None or reference.key is None:
        raise InputError(
            f"concat.partner is {text!r}, which names a snapshot of the same suite, but {reference.text} belongs to none. "
            "Name the other snapshot in full, as in --set concat.partner=timm:resnet50.a1_in1k."
        )
    arm, _, stage = text.rpartition("/")
    suite = reference.suite
    key = _key(suite, arm or "step", reference.key.seed, int(stage.removeprefix("stage")))
    return Reference(
        text=f"{suite.name}/{key}", path=snapshot_path(workspace.checkpoints, suite.name, key), suite=suite, key=key
    )


def _key(suite: Suite, arm: str, seed: int, stage: int) -> SnapshotKey:
    if arm not in suite.arms:
        raise InputError(
            f"suite {suite.name} has no arm {arm!r}.{suggestion(arm, suite.arms)} It has {', '.join(suite.arms)}."
        )
    if seed not in suite.seeds:
        raise InputError(f"suite {suite.name} has no seed {seed}. It has {', '.join(map(str, suite.seeds))}.")
    last = last_stage(arm, suite.schedule)
    if stage > last:
        raise InputError(
            f"{arm} of suite {suite.name} has no stage{stage}: it has stage0 (the initialisation) to stage{last}."
        )
    return SnapshotKey(arm=owner(arm, stage, suite.schedule), seed=seed, stage=stage)


def _near(text: str, workspace: Workspace) -> list[str]:
    """What a misspelt reference may have meant: the stage of its number, or one that was taken in."""
    return [*(f"stage{number}" for number in re.findall(r"\d+", text)[-1:]), *snapshots_taken_in(workspace)]


def _meant(text: str, workspace: Workspace) -> str:
    """What was meant by something that is no reference, where that can be guessed."""
    import timm

    # Those that were taken in are called by their own names, and timm's without its word.
    if f"{FOREIGN}/{text}" in snapshots_taken_in(workspace):
        return f" Did you mean '{FOREIGN}/{text}'?"
    if timm.is_model(text.partition(".")[0]):
        return f" Did you mean 'timm:{text}'?"
    return suggestion(text, _near(text, workspace))


_FORMS = "stage2, arm/stage2, suite/arm/seed1/stage2, foreign/NAME, a .safetensors file, timm:NAME or hf-hub:OWNER/NAME"


def folder_of_snapshots(text: str, workspace: Workspace) -> Path | None:
    """The folder that a text names; None where it names none.

    Args:
        text: A path from the current folder or from the workspace's root, or `foreign` for the snapshots taken in.
        workspace: Where snapshots are stored.
    """
    path = user_path(text)
    candidates = [path, workspace.root / path] if path.parts else []
    if text.rstrip("/") == FOREIGN:
        candidates.append(workspace.checkpoints / FOREIGN)
    return next((folder for folder in candidates if folder.is_dir()), None)


def references_in(folder: Path, workspace: Workspace) -> list[Reference]:
    """The snapshots in a folder and those below it, by path; nothing is loaded.

    Raises:
        InputError: There is none.
    """
    paths = snapshot_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no .safetensors file. `lrbench snapshots add` takes in other weights.")
    return [parse_reference(str(path), workspace) for path in paths]


def passed_over(folder: Path) -> list[str]:
    """Files in a folder and those below it that look like weights and are not in lrbench's form."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in _WEIGHTS)
