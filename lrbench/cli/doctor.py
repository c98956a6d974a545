"""`lrbench doctor`: this machine, and which suites can run on it."""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from lrbench.cli.common import DataRootOption, JsonOption, emit_json, show


def doctor(data_root: DataRootOption = None, json_: JsonOption = False) -> None:
    """Show this machine: versions, device, memory, disk, data found, and which suites can run."""
    from lrbench.core.workspace import Workspace, data_roots

    workspace = Workspace.current()
    roots = data_roots(data_root)
    report = {
        "machine": _machine(workspace),
        "versions": _versions(),
        "folders": {
            "workspace": str(workspace.root.absolute()),
            "checkpoints": _size(workspace.checkpoints),
            "cache": f"{_size(workspace.cache)}; may be deleted while nothing runs",
            **({} if workspace.pixels == workspace.cache else {"prepared images": _size(workspace.pixels)}),
            "data looked for in": ", ".join(str(root.absolute()) for root in roots),
        },
        "plug-ins": _plugins(),
        "tasks": _tasks(roots),
        "suites": _suites(workspace, roots),
    }
    if json_:
        emit_json(report)
        return
    for title, rows in report.items():
        if not rows:
            continue
        show(title)
        width = max(len(name) for name in rows) + 2
        for name, value in rows.items():
            show(f"  {name:<{width}}{value}")


def _size(folder: Path) -> str:
    taken = sum(os.lstat(os.path.join(inner, name)).st_size for inner, _, names in os.walk(folder) for name in names)
    return f"{taken / 1e9:,.1f} GB in {folder.absolute()}"


def _machine(workspace: Any) -> dict[str, str]:
    import torch

    from lrbench.core.machine import available_cores, total_memory

    existing = next(path for path in (workspace.root.absolute(), *workspace.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    machine = {"system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}"}
    machine["cores"] = str(available_cores())
    machine["memory"] = f"{total_memory() / 2**30:.0f} GiB"
    machine["disk free"] = f"{free:,.0f} GiB at {existing}"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        machine["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        machine["device"] = f"cpu (torch sees no GPU; built for CUDA {torch.version.cuda or 'none'})"
    machine["package"] = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules["lrbench"].__file__ or "")))
    return machine


def _versions() -> dict[str, str]:
    from lrbench.core.machine import installed_version, library_versions, requirements

    return {**library_versions(), **{name: installed_version(name) for name in requirements()}}


def _plugins() -> dict[str, str]:
    from lrbench.config.arms import ARMS
    from lrbench.config.plugins import plugins
    from lrbench.config.protocols import PROTOCOLS

    problems = {**ARMS.problems, **PROTOCOLS.problems}
    rows: dict[str, str] = {}
    for plugin in plugins():
        problem = problems.get(plugin, plugin.problem)
        text = f"{plugin.value} of {plugin.origin}" + (f"; left out: {problem}" if problem else "")
        name = f"{plugin.group} {plugin.name}"
        rows[name] = f"{rows[name]}; {text}" if name in rows else text
    return rows


def _tasks(roots: Any) -> dict[str, str]:
    from lrbench.cli.tasks import whereabouts
    from lrbench.config import broken_tasks, find_tasks, load_task
    from lrbench.core.errors import InputError

    shown = {}
    for name in find_tasks():
        try:
            where, is_found = whereabouts(load_task(name), roots)
            shown[name] = where if is_found else f"not found; `lrbench tasks {name}` says how to get it"
        except InputError as error:
            shown[name] = f"cannot be read: {error}"
    for number, problem in enumerate(broken_tasks(), start=1):
        shown[f"unreadable file {number}"] = problem
    return shown


def _suites(workspace: Any, roots: Any) -> dict[str, str]:
    from lrbench.cli.tasks import whereabouts
    from lrbench.config import find_suites, load_suite, load_task
    from lrbench.core.errors import LrbenchError
    from lrbench.core.workspace import Place
    from lrbench.jobs.plan import make_plan

    shown = {}
    for name in find_suites():
        try:
            suite = load_suite(name)
            missing = [task for task in (*suite.sources, *suite.targets) if not whereabouts(load_task(task), roots)[1]]
            plan = make_plan(suite, Place(workspace=workspace, roots=roots))
            would = f"needs data: {', '.join(missing)}" if missing else "would run"
            done = sum(cell.done for cell in plan.cells)
            shown[name] = f"{would}; {done:,} of {len(plan.cells):,} cells done"
        except LrbenchError as error:
            shown[name] = f"would not run: {error}"
    return shown
