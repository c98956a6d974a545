"""Fuzz what lrbench reads, and print what the mutations led to.

    python tests/fuzz/run.py --count 10000                       # every target
    python tests/fuzz/run.py --count 1 --seed 4711 --target task-toml --save failed   # one mutation again

Exits with status 1 when a mutation led to anything but the same value, a refusal, or a change of a value that no
checksum covers.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tabulate import tabulate

from tests.fuzz.harness import OUTCOMES, Report, discover, fuzz_all


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="mutations of each target")
    parser.add_argument("--target", nargs="*", action="extend", help="names of targets; by default all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first mutation; the next ones follow it")
    parser.add_argument("--jobs", type=int, default=1, help="child processes at one time")
    parser.add_argument("--save", type=Path, help="folder that receives the input of each failing mutation")
    parser.add_argument("--show", type=int, default=3, help="failures of each target that are printed in full")
    arguments = parser.parse_args()

    targets = discover()
    unknown = set(arguments.target or ()) - set(targets)
    if unknown:
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}. Known: {', '.join(targets)}")
    chosen = {name: targets[name] for name in arguments.target or targets}
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    begun = time.monotonic()

    def say(report: Report) -> None:
        counts = ", ".join(f"{outcome} {number}" for outcome, number in sorted(report.counts.items()))
        print(f"[{time.monotonic() - begun:6.0f} s] {report.target}: {counts}", file=sys.stderr, flush=True)

    reports = fuzz_all(chosen, seeds, jobs=arguments.jobs, save=arguments.save, finished=say)
    failures = [failure for report in reports for failure in report.failures]
    for report in reports:
        for failure in report.failures[: arguments.show]:
            print(f"\n{failure.target} --seed {failure.seed}: {failure.outcome}\n{failure.detail}")
    total = Report(target="all")
    for report in reports:
        total.counts.update(report.counts)
    rows = [[report.target, *(report.counts[outcome] for outcome in OUTCOMES)] for report in [*reports, total]]
    print("\n" + tabulate(rows, ["target", *OUTCOMES], tablefmt="github"))
    for report in reports:
        if report.failures:
            print(f"{report.target} fails with seeds {', '.join(str(f.seed) for f in report.failures[:20])}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
