"""Compare the probe's regularisation path with scikit-learn's: `python probe_path.py [STRENGTHS] [selection] [alone] [small]`.

The data has the shape of CUB: 5,994 random features of width 2,048 (rectified, correlated) and 200 classes. The path has 45
strengths by default, and each solution starts from the one before. Both solvers stop when the gradient of the mean objective is
below 1e-7; scikit-learn works in float64. Takes five minutes on two cores. On a GPU, which solves several strengths at once,
the script also solves them one at a time and reports both times and the share of 1,000 new images with equal predictions.

`selection` times what a cell computes: the path on four fifths of the images, the choice of a strength on the rest, and the
refit on all images. `alone` skips scikit-learn. `small` solves the path of a problem as large and as hard as those of `quick`
with both of lrbench's solvers.
"""

import sys
import time
import warnings
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.models.devices import pick_device
from lrbench.transfer.protocols import logistic_large, logistic_small, probe
from lrbench.transfer.protocols.logistic import Standardiser, solve
from lrbench.transfer.selection import LabelledFeatures, validation_split

_IMAGES, _WIDTH, _CLASSES = 5994, 2048, 200


def features(
    images: int = _IMAGES, width: int = _WIDTH, classes: int = _CLASSES, decay: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features with a decaying spectrum, like those of a network, and their labels."""
    draw = np.random.default_rng(0)
    labels = np.arange(images) % classes
    spectrum = np.arange(1, width + 1) ** -decay
    rotation = np.linalg.qr(draw.normal(size=(width, width)))[0]
    raw = draw.normal(size=(images, width)) + draw.normal(size=(classes, width))[labels]
    correlated = (raw * spectrum) @ rotation.T * np.sqrt(width / (spectrum**2).sum())
    return torch.from_numpy(np.maximum(correlated, 0).astype(np.float32)), torch.from_numpy(labels)


def together_and_in_turn(raw: torch.Tensor, labels: torch.Tensor, settings: Probe, new: int = 1000) -> None:
    """Solve all strengths together and one at a time; compare the times and the predictions on new images."""
    standardise = Standardiser(raw[new:])
    inputs, unseen = standardise(raw[new:]), standardise(raw[:new]).double()
    predictions = {}
    for how, at_once in (("together", settings.strengths), ("in turn", 1)):
        with mock.patch.object(logistic_large._Problems, "at_once", lambda problems, most=at_once: most):
            started = time.perf_counter()
            fits = solve(inputs, labels[new:], settings.grid(), classes=_CLASSES, settings=settings)
            seconds = time.perf_counter() - started
        predictions[how] = [(unseen @ fit.weights.to(unseen.device)).argmax(1).cpu() for fit in fits]
        print(f"{how}: {seconds:.1f} s, {sum(fit.iterations for fit in fits):,} iterations", flush=True)
    for strength, together, in_turn in zip(settings.grid(), *predictions.values(), strict=True):
        equal = float((together == in_turn).double().mean())
        if equal < 1:
            print(f"  λ = {strength:g}: equal predictions on {100 * equal:.1f} % of new images")


def both_solvers(rounds: int = 5) -> None:
    """Solve the path of a small problem with both solvers in turn; print the medians of processor time."""
    raw, labels = features(images=400, width=128, classes=12, decay=1.5)
    inputs, settings = Standardiser(raw)(raw), Probe(strengths=9)
    strengths = np.array(settings.grid())
    seconds: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(rounds):
        for name, solver in (("small", logistic_small.solve_small), ("large", logistic_large.solve_large)):
            started = time.process_time()
            fits = solver(inputs, labels, strengths, classes=12, settings=settings, control=Control())
            seconds[name].append(time.process_time() - started)
            iterations = sum(fit.iterations for fit in fits)
            print(f"{name}: {seconds[name][-1]:.3f} s, {iterations:,} iterations", flush=True)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    print(f"median: {medians}; ratio {medians['small'] / medians['large']:.2f}")


def selection_and_refit(raw: torch.Tensor, labels: torch.Tensor, settings: Probe) -> None:
    """Time the choice of a strength on held-out images plus the refit, with both solvers; compare their scores."""
    split = validation_split(labels.numpy(), 0.2, 0)
    everything, train, held_out = (
        LabelledFeatures(features=raw[indices].to(pick_device()), labels=labels[indices])
        for indices in (np.arange(len(labels)), *split)
    )
    started = time.perf_counter()
    choice = probe.select(train, held_out, classes=_CLASSES, metric="top1", settings=settings)
    probe.fit(everything, choice, classes=_CLASSES, settings=settings)
    ours = time.perf_counter() - started
    print(f"ours: {ours:.1f} s, strength {choice.chosen['strength']:g}", flush=True)
    if "alone" in sys.argv:
        return

    warnings.simplefilter("ignore")
    standardise = Standardiser(raw[split[0]])
    inputs, unseen = (standardise(raw[indices])[:, :-1].double().numpy() for indices in split)
    scores = []
    started = time.perf_counter()
    path = LogisticRegression(tol=settings.tolerance, max_iter=settings.iterations, warm_start=True)
    for strength in settings.grid():
        path.set_params(C=1 / strength).fit(inputs, labels[split[0]].numpy())
        scores.append(path.score(unseen, labels[split[1]].numpy()))
    chosen = settings.grid()[int(np.argmax(scores))]
    whole = Standardiser(raw)(raw)[:, :-1].double().numpy()
    LogisticRegression(C=1 / chosen, tol=settings.tolerance, max_iter=settings.iterations).fit(whole, labels.numpy())
    theirs = time.perf_counter() - started
    difference = max(
        abs(candidate["score"] - score) for candidate, score in zip(choice.candidates, scores, strict=True)
    )
    print(
        f"scikit-learn: {theirs:.1f} s, strength {chosen:g}; ratio {ours / theirs:.2f} ({theirs / ours:.1f} times as fast); "
        f"validation scores differ by at most {100 * difference:.2f} points"
    )


def main() -> None:
    """Time both solvers and compare their objectives."""
    words = sys.argv[1:]
    settings = Probe(strengths=next((int(word) for word in words if word.isdecimal()), 45))
    if "small" in words:
        both_solvers()
        return
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
    hardest = max(zip(fits, settings.grid(), strict=True), key=lambda pair: pair[0].iterations)[1]
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
        f"our objective exceeds theirs by at most {above:.1e} (relative or absolute, the smaller); "
        f"predictions agree on at least {100 * agreeing:.2f} %"
    )


if __name__ == "__main__":
    main()
