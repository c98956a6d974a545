"""Measures beside accuracy in records, in the index and in `load_results`."""

import json

import pandas
import pytest

import lrbench
from lrbench.leaderboard.frames import MEASURES
from lrbench.store.index import load_index
from lrbench.store.measures import FEATURES, curve_of, measures_of
from lrbench.store.results import read_result
from tests.leaderboard.fake import put

DESCRIBED = {name: number + 0.5 for number, name in enumerate(FEATURES)}


def measured(workspace, suite, **changes):
    return measures_of(read_result(put(workspace, suite, **changes)))


def test_measures_of_features_and_similarity(place, tiny):
    diagnostics = {
        "features": DESCRIBED,
        "source_features": {"nc1": 7.0},
        "similarity": {"previous": {"cka": 0.75, "sha256": "0"}, "hold": {"sha256": "0"}, "other": {"cka": 0.5}},
    }
    found = measured(place.workspace, tiny, protocol="representation", diagnostics=diagnostics)
    assert found == {**DESCRIBED, "source_nc1": 7.0, "cka_previous": 0.75}


def test_curves_are_in_the_order_of_their_numbers(place, tiny):
    shots = {"2": {"top1": 0.25, "mean_per_class": 0.5}, "10": {"top1": 0.5, "mean_per_class": 0.75}}
    few = measured(place.workspace, tiny, protocol="fewshot", chosen={"shots": 5}, diagnostics={"shots": shots})
    assert curve_of(few, "shots_") == {2: 0.25, 5: 0.75, 10: 0.5} and list(curve_of(few, "shots_")) == [2, 5, 10]
    # A result of version 1 has one point: its headline.
    old = measured(place.workspace, tiny, protocol="fewshot", chosen={"shots": 5})
    assert curve_of(old, "shots_") == {5: 0.75}
    candidates = [{"depth": depth, "score": depth / 10} for depth in (3, 2, 1)]
    deep = measured(
        place.workspace, tiny, protocol="depth", selection={"metric": "top1", "edge": False, "candidates": candidates}
    )
    assert list(curve_of(deep, "depth_").items()) == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.parametrize("value", [None, [], "x", {"nc1": "x", "nc2": None}, {"cka": {}}])
def test_malformed_diagnostics_have_no_measures(place, tiny, value):
    diagnostics = dict.fromkeys(["features", "source_features", "similarity", "shots"], value)
    assert measured(place.workspace, tiny, diagnostics=diagnostics) == {}


def test_measures_are_columns_of_results(place, tiny, home):
    put(place.workspace, tiny, diagnostics={"features": DESCRIBED, "similarity": {"hold": {"cka": 0.5}}})
    put(place.workspace, tiny, stage=2)
    put(place.workspace, tiny, protocol="fewshot", chosen={"shots": 5}, diagnostics={"shots": {"10": {"top1": 1.0}}})
    (entry, *_) = load_index(place.workspace.results, "tiny", place.workspace.cache).entries
    assert json.loads(entry.measures) == {"shots_5": 0.75, "shots_10": 1.0}
    for _ in range(2):
        frame = lrbench.load_results(home).set_index(["stage", "protocol"])
        assert frame.nc1[1, "probe"] == DESCRIBED["nc1"] and frame.cka_hold[1, "probe"] == 0.5
        assert frame.loc[(2, "probe"), list(MEASURES)].isna().all()
        assert json.loads(frame.accuracy_by_shots[1, "fewshot"]) == {"5": 0.75, "10": 1.0}
        assert pandas.isna(frame.accuracy_by_shots[1, "probe"]) and frame.score_by_depth.isna().all()
        assert all(frame[name].dtype == "float64" for name in MEASURES)
