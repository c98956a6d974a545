"""Transfer protocols on frozen features, one module each, and fine-tuning.

A module that implements a protocol on frozen features has three functions, whose signatures `Implementation` gives:
`configure`, `select` and `fit`. `lrbench.config.protocols` registers it by name, or an entry point of another package.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from lrbench.config.protocols import PROTOCOLS
from lrbench.core.control import Control
from lrbench.core.errors import InputError, LrbenchError, as_user_error
from lrbench.models.devices import is_out_of_memory
from lrbench.transfer.selection import Choice, Indices, LabelledFeatures

if TYPE_CHECKING:
    from lrbench.store.cells import TransferSettings


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Training images that a protocol drew for its final fit.

    Attributes:
        positions: Positions of the images, rising.
        name: Short name for the file that lists them: `5shot`.
        description: Description for the first line of that file: `5 training images of each class`.
    """

    positions: Indices
    name: str
    description: str


class Fitted(ABC):
    """A protocol after its final fit.

    Attributes:
        diagnostics: Entries for the result's `diagnostics`.
        draw: Training images of the fit, where the protocol draws a part; None where it uses all of them.
        by_shots: Fits on other numbers of training images per class, by that number.
    """

    diagnostics: dict[str, Any]
    draw: Draw | None = None
    by_shots: Mapping[int, "Fitted"] = MappingProxyType({})

    @abstractmethod
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Score each class of each image; larger means more likely.

        Args:
            features: Shape `(N, D)`.

        Returns:
            Shape `(N, C)`.
        """


class Implementation(Protocol):
    """Functions of a module that implements a protocol on frozen features."""

    def configure(self, settings: "TransferSettings", *, widths: tuple[int, ...], seed: int) -> Any:
        """Return what `select` and `fit` take as `settings`.

        Args:
            settings: Settings of the suite or of the command.
            widths: Number of features of each part: one for the penultimate layer, several for stages or a partner.
            seed: Transfer seed.
        """

    def select(
        self,
        train: LabelledFeatures,
        validation: LabelledFeatures,
        *,
        classes: int,
        metric: str,
        settings: Any,
        control: Control | None = None,
    ) -> Choice:
        """Select hyper-parameters on validation images.

        A protocol with `selects=False` gets all images as `train` and none as `validation`.

        Raises:
            InterruptedWork: A stop was requested.
        """

    def fit(
        self, data: LabelledFeatures, choice: Choice, *, classes: int, settings: Any, control: Control | None = None
    ) -> Fitted:
        """Fit once on all training and validation images with the selected hyper-parameters.

        Raises:
            InterruptedWork: A stop was requested.
        """


def implementation(name: str) -> Implementation:
    """Import the module of a registered protocol on frozen features.

    Raises:
        InputError: The module of a plug-in's protocol cannot be imported, or lacks a function.
    """
    protocol, plugin = PROTOCOLS[name], PROTOCOLS.plugin(name)
    if plugin is None:
        return cast(Implementation, import_module(protocol.module))
    try:
        module = import_module(protocol.module)
    except Exception as error:
        raise InputError(
            f"the protocol {name!r} of {plugin.origin} cannot be used: importing {protocol.module} raised "
            f"{type(error).__name__}: {error}. Correct or remove the package."
        ) from error
    missing = [function for function in ("configure", "select", "fit") if not hasattr(module, function)]
    if missing:
        raise InputError(
            f"the protocol {name!r} of {plugin.origin} cannot be used: {protocol.module} has no function `{missing[0]}`. "
            "Correct or remove the package."
        )
    return cast(Implementation, module)


@contextmanager
def naming_plugin(name: str) -> Iterator[None]:
    """Name the plug-in in errors of its protocol's code, which may raise or return anything; lrbench's own are unchanged.

    Args:
        name: Name of a registered protocol.

    Raises:
        FailureError: The plug-in raised an error or called `sys.exit`, or its results cannot be stored.
    """
    plugin = PROTOCOLS.plugin(name)
    try:
        yield
    except LrbenchError:
        raise
    except (Exception, SystemExit) as error:
        if plugin is None or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            raise
        failure = RuntimeError(f"it called sys.exit({error.code!r})") if isinstance(error, SystemExit) else error
        raise as_user_error(failure, f"the protocol {name!r} of {plugin.origin}") from error
