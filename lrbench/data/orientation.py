"""Orientations that images' metadata state, which a user's task has to decide on."""

from lrbench.config.loading import is_shipped
from lrbench.config.task import Task
from lrbench.core.errors import InputError


def asks_for_orientation(task: Task) -> bool:
    """Whether a user's task does not say what becomes of stated orientations; shipped ones use the stored pixels."""
    return task.orientation is None and not is_shipped(task)


def unstated_orientation(task: Task, images: str) -> InputError:
    """The request to say it.

    Args:
        task: A task that `asks_for_orientation`.
        images: Images whose metadata state an orientation, for the message.
    """
    return InputError(
        f"{images}: the metadata state an orientation (EXIF), and {task.path or f'task {task.name}'} does not say whether it "
        'is applied. Add orientation = "upright" to it for images as viewers show them, or orientation = "stored" for pixels '
        f"as they are in the files; `lrbench data verify {task.argument}` counts such images."
    )
