"""`lrbench register`: registration of a suite before its first result."""

from typing import TYPE_CHECKING

from lrbench.cli.common import JsonOption, SetOption, SuiteArgument, emit_json, note, show, warn

if TYPE_CHECKING:
    from lrbench.config import Suite
    from lrbench.core.workspace import Workspace


def register(suite: SuiteArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Register a suite before its first result: its values, claims, primary endpoint, margin and exclusions.

    Writes leaderboard/registrations/SUITE.json once; commit it before the suite runs. The leaderboard names it and marks the
    results that it does not cover as exploratory. Results of seeds that were computed before stay exploratory; fresh seeds
    may confirm them.
    """
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.registration import register as write_registration
    from lrbench.store.suites import suite_to_run

    workspace = Workspace.for_writing()
    chosen = suite_to_run(workspace, suite, set_ or (), note)
    registration, is_new = write_registration(workspace, chosen)
    path = workspace.leaderboard / registration.file
    if json_:
        emit_json({"path": str(path), "new": is_new, **registration.model_dump(by_alias=True, mode="json")})
    else:
        show(str(path))
    if not is_new:
        note(f"already registered on {registration.date}; nothing was changed")
        return
    note(f"registered {registration.name}, sha256 {registration.sha256[:12]}; commit the file before the suite runs")
    if registration.existing:
        seeds = sorted(registration.existing_seeds)
        named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        count = len(registration.existing)
        warn(
            f"{count:,} result{'s exist' if count > 1 else ' exists'} already. Results of pretraining {named} stay "
            "exploratory; add fresh seeds to confirm them."
        )


def warn_if_changed(workspace: "Workspace", suite: "Suite") -> None:
    """Warn if a suite differs from its registration.

    Raises:
        InputError: The registration is damaged.
    """
    from lrbench.leaderboard.registration import read_registration, suite_changes

    registration = read_registration(workspace.leaderboard, suite.name)
    if registration is not None and (changes := suite_changes(registration, suite)):
        warn(
            f"suite {suite.name} differs from the one registered on {registration.date}: {', '.join(changes)}. Its results "
            "are exploratory."
        )
