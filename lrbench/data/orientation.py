"""Orientations stated in image metadata, which a user's task must handle explicitly."""

from lrbench.config.registry import is_shipped
from lrbench.config.task import Task
from lrbench.core.errors import InputError


def needs_orientation(task: Task) -> bool:
    """Return whether a user's task lacks `orientation`. Shipped tasks use the stored pixels."""
    return task.orientation is None and not is_shipped(task)


def orientation_error(task: Task, images: str) -> InputError:
    """Return the error that asks for `orientation`.

    Args:
        task: A task for which `needs_orientation` is true.
        images: The images whose metadata state an orientation, for the message.
    """
    return InputError(
        f"{images}: the metadata (EXIF) state an orientation, but {task.path or f'task {task.name}'} does not set "
        '`orientation`. Add orientation = "upright" to apply it, as image viewers do, or orientation = "stored" to use the '
        f"stored pixels. `lrbench data verify {task.argument}` counts such images."
    )
