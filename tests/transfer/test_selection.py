import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrbench.transfer.selection import Choice, SealedLabels, on_edge, validation_split

CHOICE = Choice(chosen={"strength": 1.0}, candidates=(), edge=False, metric="top1")


@given(st.lists(st.integers(0, 6), min_size=2, max_size=80), st.integers(0, 5), st.floats(0.05, 0.6))
def test_validation_split_is_stratified_and_complete(labels, seed, fraction):
    labels = np.array(labels)
    train, validation = validation_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    for label in np.unique(labels):
        n = int((labels == label).sum())
        held = int((labels[validation] == label).sum())
        assert held == (0 if n == 1 else min(n - 1, max(1, round(fraction * n))))


def test_validation_split_is_keyed_by_the_seed():
    labels = np.repeat(np.arange(5), 20)
    assert np.array_equal(validation_split(labels, 0.2, 1)[1], validation_split(labels, 0.2, 1)[1])
    assert not np.array_equal(validation_split(labels, 0.2, 1)[1], validation_split(labels, 0.2, 2)[1])


def test_sealed_labels_open_once_for_choice_and_scores():
    labels = np.array([0, 1, 2])
    sealed = SealedLabels(labels, 3)
    for choice, scores in [
        (None, torch.zeros(3, 3)),
        ({"strength": 1.0}, torch.zeros(3, 3)),
        (Choice(chosen={}, candidates=(), edge=False, metric="top1"), torch.zeros(3, 3)),
        (CHOICE, torch.zeros(2, 3)),
        (CHOICE, torch.zeros(3, 4)),
        (CHOICE, torch.zeros(3)),
        (CHOICE, torch.tensor([[0.0, 1.0], [0.0, float("nan")], [0.0, 1.0]])),
        (CHOICE, None),
    ]:
        with pytest.raises(TypeError):
            sealed.open(choice, scores)
    assert np.array_equal(sealed.open(CHOICE, torch.zeros(3, 3)), labels)
    with pytest.raises(RuntimeError, match="read them once"):
        sealed.open(CHOICE, torch.zeros(3, 3))


def test_no_attribute_reveals_sealed_labels():
    sealed = SealedLabels(np.array([417, 418]), 500)
    assert "417" not in repr(sealed) + str(vars(sealed))
    with pytest.raises(TypeError):
        pickle.dumps(sealed)
    assert not any(isinstance(value, np.ndarray) for value in vars(sealed).values())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.5, 0.5), True),
        ((0.5, 0.5, 0.9), True),
        ((0.9, 0.9, 0.5), False),
        ((1.0, 1.0, 1.0), False),
        ((0.5, 0.9, 0.5), False),
        # Of two values the better one is an edge; a single value is not a grid.
        ((0.9, 0.5), True),
        ((0.5, 0.5), False),
        ((0.9,), False),
    ],
)
def test_edge_means_no_inner_value_is_as_good(scores, expected):
    values = (1.0, 0.1, 0.01)[: len(scores)]
    candidates = [{"strength": value, "score": score} for value, score in zip(values, scores, strict=True)]
    assert on_edge(candidates, "strength", (values[0], values[-1])) is expected
