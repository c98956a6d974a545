"""`lrbench power`: seeds and test images that an effect needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import JsonOption, SuiteArgument, emit_json, note, show

if TYPE_CHECKING:
    import pandas

    from lrbench.config import Suite
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.power import Plan

_LEAST_SEEDS = 2
# Numbers of seeds of the printed curve.
_SHOWN_SEEDS = (2, 3, 4, 5, 7, 10, 15, 20, 30)


def power(
    suite: SuiteArgument,
    effect: Annotated[
        float | None,
        typer.Option(
            "--effect",
            metavar="POINTS",
            help="Effect in points of accuracy. [default: the suite's margin]",
            min=0.01,
            max=100,
        ),
    ] = None,
    seed_sd: Annotated[
        float | None,
        typer.Option(
            "--seed-sd",
            metavar="POINTS",
            help="State the variances instead of reading results: standard deviation of a difference over pretraining seeds.",
            min=0,
            max=100,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            metavar="N",
            help="With --seed-sd: test images for each target. [default: 2000]",
            min=10,
            max=10_000_000,
        ),
    ] = None,
    disagreement: Annotated[
        float | None,
        typer.Option(
            "--disagreement",
            metavar="SHARE",
            help="With --seed-sd: share of images on which two snapshots of one run disagree. [default: 0.1]",
            min=0,
            max=1,
        ),
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(
            "--targets",
            metavar="N",
            help="With --seed-sd: number of targets. [default: the suite's]",
            min=1,
            max=1000,
        ),
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(
            "--correlation",
            metavar="R",
            help="With --seed-sd: correlation of a seed's differences on two targets. [default: 0]",
            min=0,
            max=1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the curve of power against seeds as .svg, .png, .pdf or .csv."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Report how many pretraining seeds and test images an effect on claim C3 needs.

    The variances of step − hold and step − average come from the suite's results; the noisier difference counts. An effect is
    detected if it is significant after Holm's adjustment in four of five repetitions.
    """
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace

    workspace = Workspace.current()
    correlation = correlation or 0.0
    if seed_sd is not None:
        chosen, plans = _stated(
            suite, seed_sd / 100, images or 2000, 0.1 if disagreement is None else disagreement, targets, correlation
        )
    else:
        stated = {
            "images": images,
            "disagreement": disagreement,
            "targets": targets,
            "correlation": correlation or None,
        }
        if given := [f"--{name}" for name, value in stated.items() if value is not None]:
            raise InputError(
                f"{', '.join(given)}: only used with --seed-sd, because the results state the variances. Add --seed-sd, or "
                "remove the option."
            )
        chosen, plans = _from_results(workspace, suite)
    points = chosen.margin if effect is None else effect
    from lrbench.leaderboard.markup import table
    from lrbench.leaderboard.power import curve_data, plan_table

    curve = curve_data(plans, points / 100)
    if out is not None:
        _write(out, curve, points / 100)
    if json_:
        emit_json(
            {
                "suite": chosen.name,
                "effect": points,
                "plans": [_as_dict(plan, points / 100) for plan in plans],
                "curve": curve.to_dict("list"),
            }
        )
        return
    show(table(plan_table(plans, points / 100), form="simple"))
    show("")
    show(f"Power in percent to detect {points:g} points on average over targets, against the number of seeds:")
    shown = curve[curve.seeds.isin(_SHOWN_SEEDS)].astype(str)
    show(table([dict(zip(shown.columns, row, strict=True)) for row in shown.to_numpy().tolist()], form="simple"))
    seeds = plans[0].seeds
    if seed_sd is None:
        note(f"variances as measured with {seeds} pretraining seeds; with few seeds they are rough")
    else:
        note(
            f"the variances are stated, not measured; a seed's differences have correlation {correlation:g} between targets"
        )
    if out is not None:
        note(f"wrote {out}")


def _from_results(workspace: "Workspace", name: str) -> "tuple[Suite, list[Plan]]":
    """Return a suite with results, and its plans.

    Raises:
        InputError: The suite has no results from which the variances can be estimated.
    """
    from lrbench.cli.leaderboard import suite_with_results
    from lrbench.core.errors import InputError
    from lrbench.leaderboard.gathering import gather, read_suite
    from lrbench.leaderboard.power import measured_plans

    advice = "State the variances instead, for example --seed-sd 1.3 --images 2000."
    try:
        known = suite_with_results(workspace, name)
    except InputError as error:
        raise InputError(f"{error} {advice}") from None
    suite = read_suite(workspace.results, known)
    plans = measured_plans(gather(workspace.results, suite, workspace.cache)[0])
    if not plans:
        raise InputError(
            f"The results of suite {known} do not have {_LEAST_SEEDS} pretraining seeds of the snapshots that C3 compares "
            f"(step, hold, average) on every target. {advice}"
        )
    return suite, plans


def _stated(
    name: str, seed_sd: float, images: int, disagreement: float, targets: int | None, correlation: float
) -> "tuple[Suite, list[Plan]]":
    from lrbench.config import load_suite
    from lrbench.config.protocols import PROTOCOLS
    from lrbench.core.errors import InputError
    from lrbench.leaderboard.power import stated_plans

    suite = load_suite(name)
    if len(suite.seeds) < _LEAST_SEEDS:
        raise InputError(f"Suite {suite.name} has one pretraining seed, which detects nothing. Add seeds to it.")
    protocols = sum(
        PROTOCOLS[protocol].decides and all(suite.uses(protocol, arm) for arm in ("step", "hold", "average"))
        for protocol in suite.protocols
    )
    plans = stated_plans(
        suite,
        protocols=max(1, protocols),
        seed_sd=seed_sd,
        images=images,
        disagreement=disagreement,
        targets=targets,
        correlation=correlation,
    )
    return suite, plans


def _as_dict(plan: "Plan", effect: float) -> dict[str, object]:
    return {
        "protocol": plan.protocol,
        "boundary": plan.boundary,
        "target": plan.target,
        "difference": plan.difference,
        "seeds": plan.seeds,
        "images": plan.images,
        "tests": plan.tests,
        "detectable": round(100 * plan.detectable, 4),
        "power": round(plan.power(effect), 4),
        "seeds_needed": plan.seeds_needed(effect),
        "images_needed": plan.images_needed(effect),
    }


def _write(path: Path, curve: "pandas.DataFrame", effect: float) -> None:
    """Write the curve in the format of the file's extension.

    Raises:
        InputError: The extension is unknown.
    """
    import io

    from lrbench.core.errors import InputError
    from lrbench.core.files import write_bytes
    from lrbench.leaderboard.power import draw_curve

    ending = path.suffix.lower()
    if ending == ".csv":
        write_bytes(path, curve.to_csv(index=False, lineterminator="\n").encode())
    elif ending in (".svg", ".png", ".pdf"):
        buffer = io.BytesIO()
        draw_curve(curve, effect).savefig(buffer, format=ending.removeprefix("."), dpi=150)
        write_bytes(path, buffer.getvalue())
    else:
        raise InputError(f"--out {path} has no known extension. Use .svg, .png, .pdf or .csv.")
