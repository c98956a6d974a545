"""Registration of a suite: a dated, hashed file that fixes what will be computed, tested and left out.

`registrations/<suite>.json` is written once, before the first result. Results that it does not cover are exploratory: they may
suggest a hypothesis, and only fresh seeds confirm it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrbench.config import Suite, load_task
from lrbench.config.loading import validate
from lrbench.config.protocols import PROTOCOLS, RESERVED, find_protocol
from lrbench.config.suite import Margin
from lrbench.config.toml_files import differences
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, canonical_json, parse_json, read_json, sha256_json, write_bytes, write_json
from lrbench.core.locks import locked
from lrbench.core.machine import own_version, source_revision, utc_now
from lrbench.core.workspace import Workspace
from lrbench.store.cells import TransferSettings, source_protocols, task_sha256
from lrbench.store.results import Time, is_record
from lrbench.store.suites import results_suite

if TYPE_CHECKING:
    from lrbench.leaderboard.evidence import Evidence
    from lrbench.store.index import Entry

SCHEMA = 1

_REMEDY = "Restore it from version control; a registration cannot be written again."
_LARGEST = 256 << 20
# The title does not change what is computed.
_IGNORED = {"title"}
# Parts that a later registration of the same suite may not change.
_FIXED = ("suite", "tasks", "endpoint", "exclusions", "claims", "protocols")

Reason = Literal[
    "computed before the registration",
    "of a pretraining seed with results before the registration",
    "without a time of computation",
    "of a seed that is not registered",
    "of an arm, target or protocol that is not registered",
    "with settings that are not registered",
    "of a protocol version that is not registered",
]
"""Why a result is exploratory."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Endpoint(_Part):
    """The primary endpoint.

    Attributes:
        claim: Name of the claim.
        outcome: Quantity that is tested.
        protocols: Protocols under which it is tested.
        tests: Tests and their families.
        adjustment: Adjustment of p within a family.
        alpha: Level of significance after adjustment.
        seeds: Smallest number of pretraining seeds that decides anything.
        equivalence: Rule by which a difference counts as none.
    """

    claim: str
    outcome: str
    protocols: tuple[str, ...]
    tests: str
    adjustment: str
    alpha: float
    seeds: int
    equivalence: str


class RegisteredClaim(_Part):
    """A claim as it was registered; see `lrbench.leaderboard.claims.Claim`."""

    title: str
    statement: str
    sign: Literal[-1, 1]
    unit: str


class Registration(_Part):
    """A registration as it is stored.

    Attributes:
        schema_version: Version of this format.
        name: Name of the suite.
        registered: Time of registration.
        version: Version of lrbench that wrote it.
        revision: Revision of lrbench's checkout; None for an installed package.
        suite: The suite, as in `results/<suite>/suite.json`.
        suite_sha256: Hash of `suite`.
        tasks: Hashes of the descriptions of the source and targets, by name.
        endpoint: The primary endpoint.
        margin: Margin of equivalence in points of accuracy.
        seeds: Pretraining seeds.
        exclusions: Results that are left out, and why.
        claims: Claims by name.
        protocols: Version of each of the suite's protocols.
        existing: Cells that had results when the suite was registered, sorted.
        sha256: Hash of the content without this field.
    """

    schema_version: int = Field(alias="schema")
    name: str
    registered: Time
    version: str
    revision: str | None
    suite: dict[str, Any]
    suite_sha256: str
    tasks: dict[str, str]
    endpoint: Endpoint
    margin: Margin
    seeds: tuple[int, ...]
    exclusions: tuple[str, ...]
    claims: dict[str, RegisteredClaim]
    protocols: dict[str, int]
    existing: tuple[str, ...]
    sha256: str

    @property
    def date(self) -> str:
        """The day of registration, in UTC."""
        return self.registered[:10]

    @property
    def file(self) -> str:
        """The file, relative to the leaderboard's folder."""
        return f"registrations/{self.name}.json"

    @property
    def existing_seeds(self) -> frozenset[int]:
        """Pretraining seeds that had results when the suite was registered."""
        return frozenset(
            int(match[1]) for cell in self.existing if (match := re.match(r".*?-seed(\d+)-stage\d+\.", cell))
        )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a registration fixes beyond the suite: the endpoint and the claims by name, as JSON values."""

    endpoint: dict[str, Any]
    claims: dict[str, dict[str, Any]]


def register(workspace: Workspace, suite: Suite, terms: Terms | None = None) -> tuple[Registration, bool]:
    """Write the registration of a suite, once.

    Args:
        workspace: The workspace with the results of the suite, if there are any.
        suite: The suite as it would be run.
        terms: Endpoint and claims; None for those on transfer.

    Returns:
        The registration, and whether it is new. An existing one with the same content is not changed.

    Raises:
        InputError: The suite is registered with different content, its file is damaged, or a task does not exist.
    """
    path = workspace.registrations / f"{suite.name}.json"
    content = _describe(suite, terms or transfer_terms(suite))
    with locked(workspace.cache / "registrations", Control()):
        existing = read_registration(workspace.leaderboard, suite.name)
        if existing is not None:
            stored = existing.model_dump(mode="json", include=set(_FIXED))
            if changes := differences(stored, {name: content[name] for name in _FIXED}):
                raise InputError(
                    f"{path} registers other values: {', '.join(changes)}. Give the suite a new name (--set "
                    f"name={suite.name}-2) to register it as a new experiment."
                )
            return existing, False
        folder = workspace.results / suite.name
        cells = sorted(file.stem for file in folder.iterdir() if is_record(file.name)) if folder.is_dir() else []
        content |= {"registered": utc_now(), "existing": cells}
        content["sha256"] = sha256_json(content)
        registration = Registration.model_validate(content)
        write_json(path, content)
    return registration, True


def adopt(workspace: Workspace, name: str, content: bytes) -> None:
    """Store the registration of a suite from another workspace, unless the suite is registered here."""
    with locked(workspace.cache / "registrations", Control()):
        if read_registration(workspace.leaderboard, name) is None:
            write_bytes(workspace.registrations / f"{name}.json", content)


def _describe(suite: Suite, terms: Terms) -> dict[str, Any]:
    """Return the registration of a suite as JSON values, without its time, the existing cells and its hash."""
    from lrbench.leaderboard.gathering import EXCLUSIONS

    content = results_suite(suite)
    tasks = {name: load_task(name, f"suite {suite.name}") for name in (*suite.sources, *suite.targets)}
    return {
        "schema": SCHEMA,
        "name": suite.name,
        "version": own_version(),
        "revision": source_revision(),
        "suite": content,
        "suite_sha256": sha256_json(content),
        "tasks": {name: task_sha256(task) for name, task in tasks.items()},
        "endpoint": terms.endpoint,
        "margin": suite.margin,
        "seeds": list(suite.seeds),
        "exclusions": list(EXCLUSIONS),
        "claims": terms.claims,
        "protocols": {name: find_protocol(name).version for name in _protocols(suite)},
    }


def _protocols(suite: Suite) -> tuple[str, ...]:
    """Return the protocols whose results a registration covers."""
    return suite.protocols if suite.targets else source_protocols(suite)


def transfer_terms(suite: Suite) -> Terms:
    """Return the primary endpoint of a suite and the claims on transfer."""
    from lrbench.leaderboard.claims import ALPHA, CAUSAL, CLAIMS, MIN_SEEDS

    endpoint = Endpoint(
        claim=CAUSAL.name,
        outcome="mean over the suite's targets",
        protocols=tuple(name for name in suite.protocols if PROTOCOLS[name].decides),
        tests="two-sided, in two families: one test for each protocol and boundary; one for each protocol on average over the "
        "boundaries",
        adjustment="Holm within the family",
        alpha=ALPHA,
        seeds=MIN_SEEDS,
        equivalence="not significant, and the 90 % interval is inside ±margin",
    )
    return Terms(
        endpoint=endpoint.model_dump(mode="json"),
        claims={
            claim.name: {"title": claim.title, "statement": claim.statement, "sign": claim.sign, "unit": claim.unit}
            for claim in CLAIMS
        },
    )


def read_registration(leaderboard: Path, name: str) -> Registration | None:
    """Read the registration of a suite and check it against its own hash.

    Args:
        leaderboard: The workspace's leaderboard folder.
        name: Name of the suite.

    Returns:
        The registration; None if the suite has none.

    Raises:
        InputError: The file is damaged, of another suite, or has a newer schema, or its suite is invalid.
    """
    path = leaderboard / "registrations" / f"{name}.json"
    # A file in the folder's place is named when the results are written.
    if not path.parent.is_dir():
        return None
    try:
        content = read_json(path, _REMEDY, limit=_LARGEST)
    except FileNotFoundError:
        return None
    version = content.get("schema") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise DamagedFile(path, "it has no `schema`", _REMEDY)
    if version > SCHEMA:
        raise InputError(f"{path} has schema {version}; this lrbench reads up to {SCHEMA}. Update lrbench.")
    digest = content.pop("sha256", None)
    if sha256_json(content) != digest:
        raise DamagedFile(path, "its content does not match its `sha256`", _REMEDY)
    try:
        registration = Registration.model_validate_json(canonical_json({**content, "sha256": digest}), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedFile(path, f"`{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}", _REMEDY) from error
    if registration.name != name:
        raise DamagedFile(path, f"it registers a suite {registration.name!r}", _REMEDY)
    validate(Suite, registration.suite, path)
    return registration


def suite_changes(registration: Registration, suite: Suite) -> list[str]:
    """Return the keys of a suite whose values differ from those registered, such as `schedule.batch`; without the title."""
    keys = _keys(differences(registration.suite, results_suite(suite)))
    return [key for key in keys if key not in _IGNORED]


def _keys(changes: Iterable[str]) -> list[str]:
    return [change.partition(" was ")[0] for change in changes]


def classify(entries: Iterable["Entry"], registration: Registration) -> dict[str, Reason | None]:
    """Return by cell why a result of the suite is exploratory, or None for a confirmatory result.

    A result is confirmatory if its pretraining seed had no result when the suite was registered, it was computed afterwards,
    and its seeds, cell, settings and protocol version are those registered. Weights of an earlier seed are not fresh, even
    if they are transferred again.
    """
    suite = Suite.model_validate(registration.suite)
    settings = TransferSettings.of(suite)
    known = PROTOCOLS.keys() | RESERVED.keys()
    expected = {protocol: settings.of_protocol(protocol) for protocol in registration.protocols if protocol in known}
    tasks = suite.targets or suite.sources
    existing, existing_seeds = frozenset(registration.existing), registration.existing_seeds
    conditions: dict[tuple[str, str, str], bool] = {}

    def reason(entry: "Entry") -> Reason | None:
        if entry.computed is None:
            return "computed before the registration" if entry.cell in existing else "without a time of computation"
        if entry.computed < registration.registered:
            return "computed before the registration"
        if entry.pretraining_seed in existing_seeds:
            return "of a pretraining seed with results before the registration"
        if entry.pretraining_seed not in suite.seeds or entry.seed not in suite.transfer_seeds:
            return "of a seed that is not registered"
        if entry.arm not in suite.arms or entry.task not in tasks or entry.protocol not in expected:
            return "of an arm, target or protocol that is not registered"
        if entry.conditions.protocol_version != registration.protocols[entry.protocol]:
            return "of a protocol version that is not registered"
        key = (entry.protocol, entry.task, entry.conditions.settings)
        if key not in conditions:
            actual = parse_json(entry.conditions.settings)
            actual.pop("partner", None)
            conditions[key] = actual == {"task_sha256": registration.tasks[entry.task], **expected[entry.protocol]}
        return None if conditions[key] else "with settings that are not registered"

    return {entry.cell: reason(entry) for entry in entries}


def registration_sentence(evidence: "Evidence", registration: Registration | None, terms: Terms | None = None) -> str:
    """Return whether a suite's results are confirmatory, as plain text for its pages.

    Args:
        evidence: The suite's results.
        registration: Its registration, if it has one.
        terms: Present endpoint and claims; None for those on transfer. The claims of a study are compared on its own page.
    """
    if registration is None:
        return "Exploratory: the suite was not registered before its results."
    identity = f"{registration.date} ({registration.file}, sha256 {registration.sha256[:12]})"
    if terms is None and evidence.suite.study is None:
        terms = transfer_terms(evidence.suite)
    registered = registration.model_dump(mode="json", include={"claims", "endpoint"})
    present = registered if terms is None else {"claims": terms.claims, "endpoint": terms.endpoint}
    changed = _keys(differences(registered, present))
    if changes := suite_changes(registration, evidence.suite) or changed:
        return f"Exploratory: the suite differs from the one registered on {identity}: {', '.join(changes)}."
    entries = [
        entry
        for entry in evidence.entries
        if not evidence.suite.targets
        or (entry.protocol in evidence.suite.protocols and entry.task in evidence.suite.targets)
    ]
    reasons = Counter(reason for reason in classify(entries, registration).values() if reason is not None)
    if not reasons:
        return f"Registered on {identity} before the first result."
    count = reasons.total()
    counted = [f"{number:,} {reason}" for reason, number in reasons.most_common()]
    are = "is" if len(entries) == 1 else "are"
    return (
        f"Registered on {identity}; {count:,} of {len(entries):,} results {are} exploratory: "
        f"{', '.join(counted) if len(counted) > 1 else next(iter(reasons))}."
    )
