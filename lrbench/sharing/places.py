"""Places that results and snapshots are sent to and received from: folders, zip files and repositories of the Hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lrbench.core.errors import InputError
from lrbench.core.files import user_path

_HUB = re.compile(r"hf://(?P<datasets>datasets/)?(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FORMS = {"dataset": "hf://datasets/USER/NAME", "model": "hf://USER/NAME"}


@dataclass(frozen=True, kw_only=True)
class HubRepository:
    """A repository of the Hugging Face Hub.

    Attributes:
        name: `USER/NAME`.
        kind: Type of the repository, as huggingface_hub names it.
        revision: Branch, tag or commit; None for the main branch.
    """

    name: str
    kind: Literal["dataset", "model"]
    revision: str | None = None

    @property
    def text(self) -> str:
        """The address, without the revision."""
        return _FORMS[self.kind].replace("USER/NAME", self.name)


def parse_repository(text: str, kind: Literal["dataset", "model"]) -> HubRepository:
    """Parse the address of a repository: `hf://datasets/USER/NAME` or `hf://USER/NAME`, with `@REVISION` where one is read.

    Raises:
        InputError: The text is no such address, or one of a different kind.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    match = _HUB.fullmatch(text)
    if match is None or bool(match["datasets"]) != (kind == "dataset"):
        what = "data set" if kind == "dataset" else kind
        raise InputError(f"{text!r} is not the address of a {what} on the Hugging Face Hub. Write {_FORMS[kind]}.")
    try:
        validate_repo_id(match["name"])
    except HFValidationError as error:
        raise InputError(f"{text!r} is not a valid address: {str(error).rstrip('.')}. Write {_FORMS[kind]}.") from error
    return HubRepository(name=match["name"], kind=kind, revision=match["revision"])


def parse_place(text: str) -> HubRepository | Path:
    """Parse a place of results: a data set of the Hub, or the path of a folder or zip file.

    Raises:
        InputError: It is an address that is not a data set's.
    """
    if text.startswith("hf://"):
        return parse_repository(text, "dataset")
    if "://" in text:
        raise InputError(f"{text!r} is not a place of results. Name a folder, a zip file or {_FORMS['dataset']}.")
    return user_path(text)


def collection_name(place: HubRepository | Path) -> str:
    """Return the name under which results of a place are shown."""
    if isinstance(place, HubRepository):
        return place.name
    # `..` has the name of the folder that it stands for.
    return Path(os.path.abspath(place)).name.removesuffix(".zip")
