"""`lrbench study`: a study end to end, what it refuses, incomplete studies, and registration."""

import json
import re

import pytest

from lrbench.config import load_suite, load_task
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.jobs.plan import make_plan, save_suite
from lrbench.leaderboard.registration import read_registration
from lrbench.store.suites import write_suite_with_results
from lrbench.studies.definition import load_studies, load_study
from lrbench.studies.page import write_studies
from lrbench.studies.terms import study_terms

TASK = """\
name = "NAME"
like = "ps10-k1"
[files]
size = 24
train = 200
test = 60
options = { templates = TEMPLATES, wrong = WRONG }
"""
STUDY = """\
name = "small"
title = "A small study"
question = "Does the command work?"
claims = ["P0", "P2", "P4"]
figure = "gain-by-bits"
[suite]
arms = ["step", "hold", "average"]
seeds = [1, 2, 3]
books = true
[suite.model]
architecture = "resnet18"
arguments = { layers = [1, 1, 0, 0], channels = [4, 4, 4, 4], stem_type = "deep", stem_width = 4 }
[suite.input]
size = 24
crop_fraction = 1.0
[suite.schedule]
epochs = 2
boundaries = [1]
rates = [0.1, 0.01]
batch = 50
augmentation = "none"
[suite.batchnorm]
images = 50
[[suites]]
name = "small-k1"
source = "mine-k1.toml"
[[suites]]
name = "small-k4"
source = "mine-k4.toml"
[suites.schedule]
batch = 100
"""


@pytest.fixture
def study(home):
    """Path of a study of two suites on small images."""
    for templates in (1, 4):
        text = TASK.replace("NAME", f"mine-k{templates}").replace("TEMPLATES", str(templates)).replace("WRONG", "0")
        (home / f"mine-k{templates}.toml").write_text(text)
    path = home / "small.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def computed(home, study, place, lrbench):
    """The study with every result, computed in this process after its registration."""
    assert lrbench("study", study, "--register").status == 0
    loaded = load_study(str(study))
    for suite in loaded.suites:
        save_suite(place.workspace, suite)
        write_suite_with_results(place.workspace, suite)
        for job in make_plan(suite, place).jobs():
            job.run(suite, place, Control())
    return loaded


def test_study_decides_and_writes_its_page(lrbench, home, study, computed, place, drawn):
    done = lrbench("study", study, "--json")
    assert done.status == 0, done.err
    page = (home / "leaderboard" / "studies" / "small.md").read_text()
    assert page.startswith("# A small study\n\n**small (3 units): ")
    assert json.loads(done.out)["answer"] in page
    assert len(re.findall(r"(?m)^## (?:P0|P2|P4) ", page)) == 3 and "Incomplete" not in page
    assert (home / "leaderboard" / "studies" / "figures" / "small-gain-by-bits.svg").is_file()
    assert page.count("before the first result") == 2
    suite_page = (home / "leaderboard" / "small-k1.md").read_text()
    assert "has no targets" in suite_page and "(studies/small.md)" in suite_page
    assert "(studies/small.md)" in (home / "leaderboard" / "README.md").read_text()
    assert lrbench("study", study, "--check").status == 0
    plan = lrbench("study", study, "--plan", "--json")
    assert [suite["missing_epochs"] for suite in json.loads(plan.out)["suites"]] == [0, 0]
    # Each seed is pretrained on its own book.
    results = home / "leaderboard" / "results" / "small-k4"
    assert {f"mine-k4-book{seed}" for seed in (1, 2, 3)} == {
        path.name.split(".")[1] for path in results.glob("*.json")
    } - {"json"}
    (results / "hold-seed2-stage2.mine-k4-book2.source.seed0.json").unlink()
    assert lrbench("study", study, "--check").status == 1
    write_studies(place.workspace, [computed])
    page = (home / "leaderboard" / "studies" / "small.md").read_text()
    assert "- small-k4: hold/stage2 (seed 2)" in page and "incomplete: 2 of 3 units" in page


def test_a_run_registers_the_claims_of_the_study(home, study, lrbench):
    assert lrbench("study", study, "--register").status == 0
    loaded = load_study(str(study))
    registration = read_registration(home / "leaderboard", "small-k1")
    terms = study_terms(loaded)
    assert set(registration.claims) == {"P0", "P2", "P4"} == set(terms.claims)
    assert registration.endpoint.claim == "P0, P2, P4" and registration.protocols == {"source": 1}
    assert registration.suite["study"] == "small" and registration.suite["books"] is True
    changed = lrbench("study", study, "--register", "--set", "seeds=[1, 2]")
    assert changed.status == 2 and "registers other values" in changed.err


def test_claims_without_annotations_or_arms_are_refused(home, study):
    def refusal(old, new):
        study.write_text(STUDY.replace(old, new))
        with pytest.raises(InputError) as refused:
            load_study(str(study))
        return str(refused.value)

    assert "small-k1 has no evaluation sets" in refusal('source = "mine-k1.toml"', 'source = "digits"')
    assert "claim P4 needs the arm 'average'" in refusal(', "average"', "")
    assert "there is no claim 'P9'" in refusal('"P4"', '"P9"')
    assert "there is no figure 'gain'" in refusal('"gain-by-bits"', '"gain"')
    assert "two suites have the same name" in refusal("small-k4", "small-k1")


def test_claims_on_wrong_labels_need_them(home, study):
    study.write_text(STUDY.replace('"P0", "P2", "P4"', '"N1"').replace('"average"]', '"average", "small"]'))
    with pytest.raises(InputError, match="no training images that are known to be labelled wrongly"):
        load_study(str(study))
    for templates in (1, 4):
        path = home / f"mine-k{templates}.toml"
        path.write_text(path.read_text().replace("wrong = 0", "wrong = 0.2"))
    with pytest.raises(InputError, match="claim N1 needs source_hits = true"):
        load_study(str(study))


def test_values_of_a_suite_override_single_keys(study):
    loaded = load_study(str(study), ["schedule.momentum=0.5"])
    batches = [(suite.schedule.batch, suite.schedule.momentum) for suite in loaded.suites]
    assert batches == [(50, 0.5), (100, 0.5)]
    assert all(suite.study == "small" and suite.targets == () == suite.protocols for suite in loaded.suites)
    with pytest.raises(InputError, match="cannot change `name` or `study`"):
        load_study(str(study), ["name=other"])


def test_shipped_studies_load_and_are_listed(lrbench):
    studies = load_studies()
    assert {study.name for study in studies} >= {"patterns", "noise"}
    listed = lrbench("study")
    assert listed.status == 0 and all(study.name in listed.out for study in studies)
    for study in studies:
        if set(study.claims) & {"P0", "N1"}:
            assert all(len(suite.seeds) >= 5 and suite.books for suite in study.suites)


def test_a_name_with_a_book_is_the_task_with_that_book(home):
    task, base = load_task("toy-ps10-k4-book7"), load_task("toy-ps10-k4")
    assert task.name == "toy-ps10-k4-book7" and task.title == f"{base.title}, book 7"
    assert task.files == base.files.model_copy(update={"options": {"templates": 4, "book": 7}})
    with pytest.raises(InputError, match="digits has no code books"):
        load_task("digits-book7")
    with pytest.raises(InputError, match="no task called 'ps99'"):
        load_task("ps99-book7")


def test_targets_and_protocols_are_empty_together(home):
    suite = load_suite("quick", ["targets=[]", "protocols=[]"])
    assert suite.targets == suite.protocols == ()
    with pytest.raises(InputError, match="targets is empty"):
        load_suite("quick", ["targets=[]"])
    assert "books" not in load_suite("quick").model_dump(mode="json")
    assert "study" not in load_suite("quick").model_dump(mode="json")
