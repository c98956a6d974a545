"""All generators by name."""

from lrbench.core.errors import InputError
from lrbench.data.synthetic.generator import Generator
from lrbench.data.synthetic.ps10 import PS10
from lrbench.data.synthetic.world import WORLD

GENERATORS: dict[str, Generator] = {**WORLD, "ps10": PS10}


def find_generator(name: str, where: str) -> Generator:
    """Return a generator.

    Args:
        name: Its name in task files.
        where: Source of the name, for errors.

    Raises:
        InputError: There is no such generator.
    """
    if name not in GENERATORS:
        raise InputError(
            f"{where}: unknown files.generator {name!r}. Choose from {', '.join(sorted(GENERATORS))} and digits."
        )
    return GENERATORS[name]
