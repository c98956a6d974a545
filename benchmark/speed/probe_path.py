"""The probe's whole path at CUB's shape against scikit-learn's: `probe_path.py [STRENGTHS] [selection] [alone]` with Python.

5,994 made-up features of width 2,048 (rectified, correlated, 200 classes) at 45 strengths unless told otherwise, in turn, each
started from the one before; both work until the mean objective's gradient is below 1e-7, scikit-learn in double precision.
Takes five minutes on two cores. On a GPU, which solves strengths together, that is measured against solving them in turn too:
the time, and on how many of 1,000 new images both foretell the same. With the word `selection`, what a cell takes is timed
instead: the path on four fifths of the images, the strength chosen on the others, and the refit on all. With the word `alone`,
scikit-learn is left out.
"""

import sys
import time
import warnings
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from lrbench.config.protocols import Probe
from lrbench.models.devices import pick_device
from lrbench.transfer.protocols import probe
from lrbench.transfer.protocols.probe import Standardiser, solve
from lrbench.transfer.selection import LabelledFeatures, validation_split

_IMAGES, _WIDTH, _CLASSES = 5994, 2048, 200


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a falling spectrum, as a network's have, and their labels."""
    draw = np.random.default_rng(0)
    labels = np.arange(_IMAGES) % _CLASSES
    spectrum = np.arange(1, _WIDTH + 1) ** -0.5
    rotation = np.linalg.qr(draw.normal(size=(_WIDTH, _WIDTH)))[0]
    raw = draw.normal(size=(_IMAGES, _WIDTH)) + draw.normal(size=(_CLASSES, _WIDTH))[labels]
    found = (raw * spectrum) @ rotation.T * np.sqrt(_WIDTH / (spectrum**2).sum())
    return torch.from_numpy(np.maximum(found, 0).astype(np.float32)), torch.from_numpy(labels)


def together_and_in_turn(raw: torch.Tensor, labels: torch.Tensor, settings: Probe, new: int = 1000) -> None:
    """Solve all strengths together and one after the other, and compare what they foretell of new images."""
    standardise = Standardiser(raw[new:])
    inputs, unseen = standardise(raw[new:]), standardise(raw[:new]).double()
    found = {}
    for how, at_once in (("together", settings.strengths), ("in turn", 1)):
        with mock.patch.object(probe._Problems, "at_once", lambda problems, most=at_once: most):
            started = time.perf_counter()
            fits = solve(inputs, labels[new:], settings.grid(), classes=_CLASSES, settings=settings)
            seconds = time.perf_counter() - started
        found[how] = [(unseen @ fit.weights.to(unseen.device)).argmax(1).cpu() for fit in fits]
        print(f"{how}: {seconds:.1f} s, {sum(fit.iterations for fit in fits):,} iterations", flush=True)
    for strength, one, other in zip(settings.grid(), *found.values(), strict=True):
        same = float((one == other).double().mean())
        if same < 1:
            print(f"  λ = {strength:g}: the same on {100 * same:.1f} % of new images")


def selection_and_refit(raw: torch.Tensor, labels: torch.Tensor, settings: Probe) -> None:
    """Time choosing a strength on held-out images and refitting, both ways; and compare what they come to."""
    held = validation_split(labels.numpy(), 0.2, 0)
    every, train, held_out = (
        LabelledFeatures(features=raw[where].to(pick_device()), labels=labels[where])
        for where in (np.arange(len(labels)), *held)
    )
    started = time.perf_counter()
    choice = probe.select(train, held_out, classes=_CLASSES, metric="top1", settings=settings)
    probe.fit(every, choice, classes=_CLASSES, settings=settings)
    ours = time.perf_counter() - started
    print(f"ours: {ours:.1f} s, strength {choice.chosen['strength']:g}", flush=True)
    if "alone" in sys.argv:
        return

    warnings.simplefilter("ignore")
    standardise = Standardiser(raw[held[0]])
    inputs, unseen = (standardise(raw[where])[:, :-1].double().numpy() for where in held)
    scores = []
    started = time.perf_counter()
    path = LogisticRegression(tol=settings.tolerance, max_iter=settings.iterations, warm_start=True)
    for strength in settings.grid():
        path.set_params(C=1 / strength).fit(inputs, labels[held[0]].numpy())
        scores.append(path.score(unseen, labels[held[1]].numpy()))
    chosen = settings.grid()[int(np.argmax(scores))]
    whole = Standardiser(raw)(raw)[:, :-1].double().numpy()
    LogisticRegression(C=1 / chosen, tol=settings.tolerance, max_iter=settings.iterations).fit(whole, labels.numpy())
    theirs = time.perf_counter() - started
    apart = max(abs(each["score"] - score) for each, score in zip(choice.candidates, scores, strict=True))
    print(
        f"scikit-learn: {theirs:.1f} s, strength {chosen:g}; ratio {ours / theirs:.2f} ({theirs / ours:.1f} times as fast); "
        f"validation scores differ by at most {100 * apart:.2f} points"
    )


def main() -> None:
    """Time both and compare what they reach."""
    words = sys.argv[1:]
    settings = Probe(strengths=next((int(word) for word in words if word.isdecimal()), 45))
    raw, labels = features()
    if "selection" in words:
        selection_and_refit(raw, labels, settings)
        return
    on_device = raw.to(pick_device())
    inputs = Standardiser(on_device)(on_device)
    wide = inputs.cpu().double()

    def objective(weights: torch.Tensor, strength: float) -> float:
        loss = torch.nn.functional.cross_entropy(wide @ weights, labels)
        return float(loss + strength / _IMAGES / 2 * weights[:-1].square().sum())

    started = time.perf_counter()
    fits = solve(inputs, labels, settings.grid(), classes=_CLASSES, settings=settings)
    ours = time.perf_counter() - started
    print(f"ours: {ours:.1f} s, {sum(fit.iterations for fit in fits):,} iterations", flush=True)
    hardest = max(zip(fits, settings.grid(), strict=True), key=lambda each: each[0].iterations)[1]
    started = time.perf_counter()
    solve(inputs, labels, [hardest], classes=_CLASSES, settings=settings)
    single = time.perf_counter() - started
    print(
        f"the hardest strength alone ({hardest:g}): {single:.1f} s; the path takes {ours / single:.1f} times as long",
        flush=True,
    )

    if on_device.device.type == "cuda":
        together_and_in_turn(on_device, labels, settings)
    if "alone" in words:
        return

    warnings.simplefilter("ignore")
    theirs_fit = LogisticRegression(tol=settings.tolerance, max_iter=settings.iterations, warm_start=True)
    theirs, above, agreeing = 0.0, 0.0, 1.0
    plain, targets = wide[:, :-1].numpy(), labels.numpy()
    for fit, strength in zip(fits, settings.grid(), strict=True):
        theirs_fit.set_params(C=1 / strength)
        started = time.perf_counter()
        theirs_fit.fit(plain, targets)
        theirs += time.perf_counter() - started
        weights = torch.from_numpy(np.vstack([theirs_fit.coef_.T, theirs_fit.intercept_[None]]))
        reference = objective(weights, strength)
        above = max(
            above,
            min(
                (objective(fit.weights, strength) - reference) / reference, objective(fit.weights, strength) - reference
            ),
        )
        same = ((wide @ weights).argmax(1) == (wide @ fit.weights).argmax(1)).double().mean()
        agreeing = min(agreeing, float(same))
    print(f"scikit-learn: {theirs:.1f} s; ratio {ours / theirs:.2f} ({theirs / ours:.1f} times as fast)")
    print(
        f"our objective is at most {above:.1e} above theirs (relative or a sample); predictions agree on {100 * agreeing:.2f} %"
    )


if __name__ == "__main__":
    main()
