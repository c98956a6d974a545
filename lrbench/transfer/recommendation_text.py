"""Sentences on a recommendation: what ranks the snapshots, which one to transfer, and what the test images say."""

from lrbench.models.network_cost import NetworkCost
from lrbench.store.references import Reference, SuiteSnapshot
from lrbench.transfer.lead import Lead
from lrbench.transfer.recommendation import LEAST_VALIDATION, Basis, Recommendation

_OWNERS = {"probe": "the probe's", "knn": "kNN's", "finetune": "fine-tuning's"}
_DONE = {"probe": "probed", "knn": "compared by kNN", "finetune": "fine-tuned"}


def scope_text(count: int, names: int, by: str, top: int) -> str:
    """Return how many snapshots are compared and how.

    Args:
        count: Number of networks.
        names: Number of names that they have.
        by: Protocol that ranks.
        top: Number of networks that it compares, the best by LogME.
    """
    copies = f" ({names} names)" if count < names else ""
    if by == "logme":
        return f"{count} snapshot{'' if count == 1 else 's'}{copies}, ranked by LogME"
    if count == 1:
        return f"1 snapshot{copies}, which is {_DONE[by]}"
    return f"{count} snapshots{copies}, of which the {min(top, count)} best by LogME are {_DONE[by]}"


def score_name(basis: Basis, metric: str) -> str:
    """Return the name of the score that ranks the snapshots: `cross-validated top-1`.

    Args:
        basis: Basis of the ranking.
        metric: Name of the task's headline metric.
    """
    return f"{'validation' if basis.folds is None else 'cross-validated'} {metric}"


def recommendation_rows(outcome: Recommendation, metric: str) -> list[dict[str, str]]:
    """Return the snapshots in their order as rows of a table, in plain text.

    Args:
        outcome: The comparison.
        metric: Name of the task's headline metric.
    """
    rows = []
    for rank, candidate in enumerate(outcome.ranked, start=1):
        result, interval = candidate.result, candidate.test_interval
        row = {
            "rank": "failed" if candidate.failure is not None else str(rank),
            "snapshot": candidate.reference.text,
            "LogME": "" if candidate.logme is None else f"{candidate.logme:.3f}",
        }
        if outcome.basis.protocol != "logme":
            score = "" if candidate.score is None else f"{100 * candidate.score:.1f}"
            row[f"{score_name(outcome.basis, metric)} %"] = score
            if metric != "top-1":
                row[f"test {metric} %"] = "" if result is None else f"{100 * result.result.headline:.1f}"
            row["test top-1 % (95 %)"] = (
                ""
                if result is None or interval is None
                else f"{100 * result.result.metrics['top1']:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
            )
        rows.append({**row, **cost_cells(candidate.cost, candidate.speed), "time": f"{candidate.seconds:.1f} s"})
    return rows


def basis_text(basis: Basis, metric: str) -> str:
    """Return a sentence on the score that ranks the snapshots, and on ties."""
    if basis.protocol == "logme":
        return (
            f"Ranked by LogME of {basis.images:,} training images, which is not an accuracy and may rank differently than a "
            "trained classifier. Test images do not affect the ranking."
        )
    few = f"{basis.validation:,} image{'s' if basis.validation != 1 else ''}"
    owner = _OWNERS[basis.protocol]
    if basis.folds is not None:
        ranked = (
            f"Ranked by {owner} {metric} in {basis.folds}-fold cross-validation on {basis.images:,} training images, since "
            f"the validation split has only {few} (fewer than {LEAST_VALIDATION})"
        )
    else:
        ranked = f"Ranked by {owner} {metric} on {basis.images:,} validation images"
        if basis.images < LEAST_VALIDATION:
            ranked += ", which are few: small differences are chance"
    return f"{ranked}. Equal scores are ordered by LogME. Test images do not affect the ranking."


def answer_text(outcome: Recommendation, metric: str) -> str:
    """Return the recommendation in one sentence."""
    best, lead, second, by = outcome.best, outcome.lead, outcome.second, outcome.basis.protocol
    if best is None:
        return "None of the snapshots could be compared."
    name = best.reference.text
    if by == "logme":
        count = len({candidate.weights_id for candidate in outcome.ranked if candidate.failure is None})
        return f"{name} is first of {count} by LogME, which was not compared on test images."
    if lead is None or second is None:
        return f"{name} is the only snapshot that was {_DONE[by]}, so there is no comparison."
    difference = f"{100 * lead.difference:+.1f} ± {100 * lead.half_width:.1f} points of {metric} on the test images"
    other, rivals = second.reference.text, f"{len(outcome.compared)} snapshots that were {_DONE[by]}"
    if lead.verdict == "better" and lead.difference > 0 and len(outcome.tied) == 1:
        return f"Transfer {name}: it is first of {rivals}, and better than {other} ({difference})."
    reason = {
        "better": f"{name} is first, but the test images do not confirm its lead over {other}",
        "equivalent": f"{name} is first, but no more than {lead.margin:g} points from {other}",
        "undecided": f"{name} is first, but its lead over {other} is undecided",
    }[lead.verdict]
    return f"No clear winner of {rivals}: {reason} ({difference})."


def recommendation_text(outcome: Recommendation, metric: str) -> str:
    """Return the recommendation, or that there is no clear winner, with the evidence."""
    best, lead, second, tied = outcome.ranked[0], outcome.lead, outcome.second, outcome.tied
    twins = [
        other.reference.text
        for other in outcome.ranked[1:]
        if other.failure is None and other.weights_id is not None and other.weights_id == best.weights_id
    ]
    same = f" ({', '.join(twins)} {'is' if len(twins) == 1 else 'are'} the same weights)" if twins else ""
    name, by = best.reference.text, outcome.basis.protocol
    if by == "logme":
        others = [
            other for other in outcome.ranked[1:] if other.logme is not None and other.reference.text not in twins
        ]
        if not others:
            return f"{name}{same} is the only snapshot, so there is no comparison."
        return (
            f"{name}{same} has the largest LogME, {best.logme:.3f} against {others[0].logme:.3f} of "
            f"{others[0].reference.text}. Ranking by probe, knn or finetune compares the first two on test images, too."
        )
    if lead is None or second is None:
        return f"{name}{same} is the only snapshot that was {_DONE[by]}, so there is no comparison."
    measure = score_name(outcome.basis, metric)
    certain, ahead = lead.verdict == "better", lead.difference > 0
    if len(tied) > 1:
        names = [candidate.reference.text for candidate in tied]
        ranking = (
            f"{', '.join(names[:-1])} and {names[-1]} tie at a {measure} of {100 * (best.score or 0):.1f} %; {name}{same} is "
            "first because its LogME is the largest."
        )
    else:
        scores = f"{100 * (best.score or 0):.1f} % against {100 * (second.score or 0):.1f} % of {second.reference.text}"
        ranking = f"{name}{same} has the best {measure}, {scores}."
    answer = f"Transfer {name}." if certain and ahead and len(tied) == 1 else "No clear winner."
    advice = " Compare again with another --seed or with more images." if certain and not ahead else ""
    return f"{answer} {ranking}\n\n{lead_text(lead, best.reference, second.reference, metric)}{advice}"


def cost_cells(cost: NetworkCost | None, speed: float | None) -> dict[str, str]:
    """Return the cells of a table with a network's cost.

    Args:
        cost: The cost; None if it is unknown.
        speed: Images per second; None if they are unknown.
    """
    multiply_adds = None if cost is None else cost.multiply_adds
    return {
        "parameters": "" if cost is None else _with_prefix(cost.parameters),
        "multiply-adds": "" if multiply_adds is None else _with_prefix(multiply_adds),
        "images/s": "" if speed is None else f"{speed:,.0f}",
    }


def _with_prefix(count: int) -> str:
    """Return a large number with three digits and an SI prefix: `25.6 M`."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.5 k is 1 M with three digits.
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {prefix}"
    return str(count)


def cost_text(stored: int, measured: int) -> str:
    """Return the meaning of the columns of `cost_cells`.

    Args:
        stored: Number of speeds that come from stored results.
        measured: Number of speeds that were measured now.
    """
    meaning = "Parameters and multiply-adds (of one image) are without the classifier."
    extraction = "while features were extracted, under its load at that time"
    if measured:
        meaning += f" Images per second were measured on this machine {extraction}"
        meaning += f", except {stored} from earlier results." if stored else "."
    elif stored:
        meaning += " Images per second come from earlier results, of the machine and load that computed them."
    return meaning


def lead_text(lead: Lead, first: Reference, second: Reference, metric: str) -> str:
    """Return which of two snapshots is better on the test images and by how much, and what the interval covers."""
    names = [_row_name(reference) if lead.seeds else reference.text for reference in (first, second)]
    margin = f"{lead.margin:g} point{'s' if lead.margin != 1 else ''}"
    half, signed = f"{100 * lead.half_width:.1f} points of {metric}", f"{100 * lead.difference:+.1f}"
    if lead.verdict == "better":
        better, worse = names if lead.difference > 0 else names[::-1]
        verdict = f"{better} is better than {worse} by {100 * abs(lead.difference):.1f} ± {half}"
        verdict += f", no difference beyond {margin}." if lead.equivalent else "."
    elif lead.verdict == "equivalent":
        verdict = f"No difference beyond {margin}: {names[0]} differs from {names[1]} by {signed} ± {half}."
    else:
        sizes = [
            f"{count:,} {unit}"
            for count, unit in ((lead.seeds_needed, "seeds"), (lead.images_needed, "test images"))
            if count is not None
        ]
        needed = (
            f"{' or '.join(sizes)} would decide" if sizes else "no number of seeds or test images alone would decide"
        )
        verdict = f"Undecided: {names[0]} differs from {names[1]} by {signed} ± {half}; {needed}."
    if lead.seeds:
        return (
            f"{verdict} The 95 % interval covers {len(lead.seeds)} pretraining seeds and {lead.images:,} test images."
        )
    return f"{verdict} The 95 % interval covers the {lead.images:,} test images only, not pretraining again."


def _row_name(reference: Reference) -> str:
    assert isinstance(reference, SuiteSnapshot)
    return f"{reference.suite.name}/{reference.key.arm}/stage{reference.key.stage}"
