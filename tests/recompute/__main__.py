import sys
from pathlib import Path

from tests.recompute.page import compare
from tests.recompute.results import Results


def main() -> int:
    """Compare a page with its recomputation, print the differences, and return the exit status."""
    name, *folder = sys.argv[1:]
    leaderboard = Path(*folder) if folder else Path("leaderboard")
    page = (leaderboard / f"{name}.md").read_text(encoding="utf-8")
    count, wrong = compare(Results(leaderboard / "results" / name), page)
    print(f"{name}: {count:,} numbers compared, {len(wrong)} disagreements")
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
