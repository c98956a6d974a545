"""Registration of a suite: written once, checked when read, and the results that it covers."""

import json

import pytest

from lrbench.core.errors import InputError
from lrbench.core.files import sha256_json
from lrbench.leaderboard import page
from lrbench.leaderboard import registration as module
from lrbench.leaderboard.gathering import gather
from lrbench.leaderboard.registration import classify, read_registration, register, registration_sentence
from lrbench.store.index import load_index
from lrbench.store.suites import write_suite_with_results
from tests.leaderboard.fake import LATER, put, put_registered
from tests.leaderboard.helpers import suite_page

EARLIER, REGISTERED = "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"


@pytest.fixture(autouse=True)
def _fixed_time(monkeypatch):
    monkeypatch.setattr(module, "utc_now", lambda: REGISTERED)


def entry_reason(workspace, registration):
    (entry,) = load_index(workspace.results, "tiny", None).entries
    return classify([entry], registration)[entry.cell]


def sentence(workspace, suite):
    (evidence,) = gather(workspace.results, suite)
    return registration_sentence(evidence, evidence.registration)


def rewrite(path, **changes):
    """Change values of a registration and sign it again."""
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256")
    path.write_text(json.dumps({**content, "sha256": sha256_json(content)}))


def test_registration_states_suite_claims_and_endpoint(workspace, tiny):
    registration, is_new = register(workspace, tiny)
    assert is_new and registration == read_registration(workspace.leaderboard, "tiny")
    content = json.loads((workspace.registrations / "tiny.json").read_text())
    assert content["suite"]["schedule"]["boundaries"] == [3, 5] and content["seeds"] == [0, 1]
    assert content["suite_sha256"] == sha256_json(content["suite"])
    assert content["endpoint"]["claim"] == "C3" and content["endpoint"]["protocols"] == ["probe", "knn"]
    assert content["margin"] == 2
    assert {name: claim["sign"] for name, claim in content["claims"].items()} == {"C1": -1, "C2": -1, "C3": -1, "C4": 1}
    assert set(content["protocols"]) == {"probe", "knn"} and content["existing"] == []


def test_registration_is_written_once(workspace, tiny, monkeypatch):
    register(workspace, tiny)
    before = (workspace.registrations / "tiny.json").read_bytes()
    monkeypatch.setattr(module, "utc_now", lambda: LATER)
    put(workspace, tiny)
    assert register(workspace, tiny)[1] is False
    changed = tiny.model_copy(update={"seeds": (0, 1, 2), "margin": 1.0})
    with pytest.raises(InputError) as refused:
        register(workspace, changed)
    message = str(refused.value)
    assert (
        "suite.seeds was [0, 1] and is now [0, 1, 2]" in message
        and "suite.margin was not set and is now 1.0" in message
    )
    assert message.count(". ") == 1 and "--set name=tiny-2" in message
    assert (workspace.registrations / "tiny.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text(path.read_text().replace('"margin": 2.0', '"margin": 9.0')), "does not match"),
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: path.write_text("[]"), "no `schema`"),
        (lambda path: rewrite(path, schema=2), "Update lrbench"),
        (lambda path: rewrite(path, name="other"), "registers a suite 'other'"),
        (lambda path: rewrite(path, margin=-1.0), "`margin`"),
        (lambda path: rewrite(path, suite={"name": "tiny"}), "`source`"),
    ],
)
def test_damaged_registration_is_refused(workspace, tiny, damage, message):
    register(workspace, tiny)
    path = workspace.registrations / "tiny.json"
    damage(path)
    with pytest.raises(InputError, match=message) as refused:
        read_registration(workspace.leaderboard, "tiny")
    assert str(path) in str(refused.value)


def test_suite_without_registration_is_exploratory(workspace, tiny):
    put_registered(workspace, tiny)
    assert read_registration(workspace.leaderboard, "tiny") is None
    assert sentence(workspace, tiny) == "Exploratory: the suite was not registered before its results."


def test_registered_suite_is_confirmatory(workspace, tiny):
    registration, _ = register(workspace, tiny)
    put_registered(workspace, tiny)
    expected = f"Registered on 2026-11-29 (registrations/tiny.json, sha256 {registration.sha256[:12]}) before the first result."
    assert entry_reason(workspace, registration) is None and sentence(workspace, tiny) == expected
    assert suite_page(workspace).count("before the first result.") == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"computed": EARLIER}, "computed before the registration"),
        ({"computed": None}, "without a time of computation"),
        ({"seed": 5}, "of a seed that is not registered"),
        ({"transfer_seed": 3}, "of a seed that is not registered"),
        ({"arm": "raise"}, "of an arm, target or protocol that is not registered"),
        ({"protocol": "logme", "chosen": {"logme": 1.0}}, "of an arm, target or protocol that is not registered"),
        ({"protocol_version": 99}, "of a protocol version that is not registered"),
        ({"settings": {"probe": {"strengths": 9}}}, "with settings that are not registered"),
    ],
)
def test_result_outside_the_registration_is_exploratory(workspace, tiny, changes, reason):
    registration, _ = register(workspace, tiny)
    put_registered(workspace, tiny, **changes)
    assert entry_reason(workspace, registration) == reason


def test_seeds_with_earlier_results_stay_exploratory(workspace, tiny):
    put_registered(workspace, tiny, seed=0, computed=None)
    registration, _ = register(workspace, tiny)
    assert registration.existing == ("step-seed0-stage1.tiny-objects.probe.seed0",)
    put_registered(workspace, tiny, seed=0, target="tiny-indoor")
    put_registered(workspace, tiny, seed=1)
    reasons = classify(load_index(workspace.results, "tiny", None).entries, registration)
    assert sorted(reasons.values(), key=str) == [
        None, "computed before the registration", "of a pretraining seed with results before the registration",
    ]  # fmt: skip
    text = sentence(workspace, tiny)
    assert "; 2 of 3 results are exploratory: 1 computed before the registration, 1 of a pretraining seed" in text


def test_sentence_names_the_only_reason(workspace, tiny):
    register(workspace, tiny)
    put_registered(workspace, tiny, seed=0, computed=EARLIER)
    put_registered(workspace, tiny, seed=1)
    assert sentence(workspace, tiny).endswith("; 1 of 2 results are exploratory: computed before the registration.")


def test_changed_suite_is_exploratory_and_names_the_keys(workspace, tiny):
    register(workspace, tiny)
    changed = tiny.model_copy(update={"seeds": (0, 1, 2), "title": "Other", "margin": 1.0})
    put_registered(workspace, changed)
    text = sentence(workspace, changed)
    assert text.startswith(
        "Exploratory: the suite differs from the one registered on 2026-11-29 (registrations/tiny.json"
    )
    assert text.endswith(": seeds, margin.")


def test_changed_claim_is_exploratory(workspace, tiny):
    register(workspace, tiny)
    path = workspace.registrations / "tiny.json"
    claims = json.loads(path.read_text())["claims"]
    claims["C3"]["sign"] = 1
    rewrite(path, claims=claims)
    put_registered(workspace, tiny)
    assert sentence(workspace, tiny).endswith(": claims.C3.sign.")


def test_register_command_writes_the_file(lrbench, workspace, home):
    shown = lrbench("register", "tiny.toml")
    path = workspace.registrations / "tiny.json"
    assert shown.status == 0 and shown.out.strip().endswith("registrations/tiny.json") and path.is_file()
    assert "commit the file before the suite runs" in shown.err
    again = lrbench("register", "tiny.toml", "--json")
    assert json.loads(again.out)["new"] is False and "already registered on 2026-11-29" in again.err
    refused = lrbench("register", "tiny.toml", "--set", "margin=1")
    assert refused.status == 2 and "suite.margin was not set and is now 1.0" in refused.err


def test_register_command_reports_existing_results(lrbench, workspace, tiny):
    put(workspace, tiny, seed=1)
    shown = lrbench("register", "tiny.toml")
    assert "1 result exists already. Results of pretraining seed 1 stay exploratory" in shown.err


def test_damaged_registration_stops_its_own_pages_only(workspace, tiny):
    put_registered(workspace, tiny)
    put(workspace, tiny.model_copy(update={"name": "other"}))
    register(workspace, tiny)
    (workspace.registrations / "tiny.json").write_text("{")
    page.write(workspace, ["other"])
    assert "registrations/tiny.json is damaged" in (workspace.leaderboard / "README.md").read_text()
    with pytest.raises(InputError, match="is damaged"):
        page.write(workspace, ["tiny"])


def test_transfer_warns_once_of_a_suite_that_differs(lrbench, workspace, tiny, pretrain_tiny):
    pretrain_tiny("step")
    register(workspace, tiny.model_copy(update={"margin": 1.0}))
    # Without data of the target, the command stops after the warning.
    shown = lrbench("transfer", "--snapshot", "stage1", "--snapshot", "stage2", "--task", "cub200")
    assert shown.status != 0 and shown.err.count("differs from the one registered on 2026-11-29: margin.") == 1


def test_run_warns_of_a_suite_that_differs(lrbench, workspace, tiny):
    register(workspace, tiny)
    write_suite_with_results(workspace, tiny)
    # Without data of the source, the command stops after the warning.
    shown = lrbench("run", "tiny.toml", "--set", "seeds=[0]", "--set", "targets=['cub200']")
    warning = "suite tiny differs from the one registered on 2026-11-29: targets, seeds. Its results are exploratory."
    assert shown.status == 2 and shown.err.count(warning) == 1
