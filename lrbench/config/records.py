"""Registries of records by name, such as protocols and arms, which plug-ins extend."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError

from lrbench.config.plugins import Plugin, plugins
from lrbench.config.strict import name_problem

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Entry points that add records.

    Attributes:
        name: Name of the group.
        kind: Type of the records, which have a `name`.
        reserved: Names that plug-ins may not use, besides those of lrbench's own records.
        objection: Returns why a record cannot be used, given all records, or None if it can.
    """

    name: str
    kind: type[Any]
    reserved: Iterable[str] = ()
    objection: Callable[[Any, Mapping[str, Any]], str | None]


class _Broken(Exception):
    """A plug-in cannot be used; the message says why."""


class _BeingImported(Exception):
    """A plug-in's module is being imported."""


class Registry(MutableMapping[str, Record]):
    """Records of lrbench in their order, then those of plug-ins, which are loaded on first use.

    A plug-in's module may read the registry while it is imported; it sees lrbench's own records.
    """

    def __init__(self, records: Iterable[Record], group: Group) -> None:
        self._own = {record.name: record for record in records}  # type: ignore[attr-defined]
        self._group = group
        self._loaded: dict[str, Record] | None = None
        self._plugins: dict[str, Plugin] = {}
        self._problems: dict[Plugin, str] = {}

    def __getitem__(self, name: str) -> Record:
        return self._records()[name]

    def __setitem__(self, name: str, record: Record) -> None:
        self._records()[name] = record

    def __delitem__(self, name: str) -> None:
        del self._records()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records())

    def __len__(self) -> int:
        return len(self._records())

    @property
    def problems(self) -> Mapping[Plugin, str]:
        """Why plug-ins were left out."""
        self._records()
        return self._problems

    def plugin(self, name: str) -> Plugin | None:
        """Return the plug-in that adds a record, or None for lrbench's own and unknown records."""
        self._records()
        return self._plugins.get(name)

    def versions(self, name: str) -> dict[str, str]:
        """Return the version of the distribution that adds a record, by its name; empty for lrbench's own records."""
        plugin = self.plugin(name)
        return {} if plugin is None else {plugin.distribution: plugin.version}

    def broken(self, name: str) -> str | None:
        """Return a sentence about the plug-in of this name that was left out, or None if there is none."""
        return next(
            (
                f"the plug-in {name!r} of {plugin.origin} was left out: {problem}"
                for plugin, problem in self.problems.items()
                if plugin.name == name
            ),
            None,
        )

    def reload(self) -> None:
        """Look plug-ins up again on the next use, as after the installation of a package."""
        plugins.cache_clear()
        self._loaded = None
        self._plugins, self._problems = {}, {}

    def _records(self) -> dict[str, Record]:
        if self._loaded is not None:
            return self._loaded
        records, adding, problems = dict(self._own), dict[str, Plugin](), dict[Plugin, str]()
        for plugin in plugins():
            if plugin.group != self._group.name:
                continue
            try:
                records[plugin.name], adding[plugin.name] = self._load(plugin, adding), plugin
            except _BeingImported:
                # Loaded on the next use: the plug-in's module itself reads the registry now.
                return self._own
            except _Broken as error:
                problems[plugin] = str(error)
        # A record may refer to records that are loaded after it.
        for name, plugin in list(adding.items()):
            if (objection := self._group.objection(records[name], records)) is not None:
                problems[plugin] = objection
                del records[name], adding[name]
        self._loaded, self._plugins, self._problems = records, adding, problems
        return records

    def _load(self, plugin: Plugin, adding: Mapping[str, Plugin]) -> Record:
        """Return the record of a plug-in."""
        if plugin.name in self._own or plugin.name in self._group.reserved:
            raise _Broken(f"{plugin.name!r} is a name of lrbench, which cannot be replaced")
        if plugin.name in adding:
            raise _Broken(f"{adding[plugin.name].origin} already adds {plugin.name!r}")
        if plugin.problem is not None:
            raise _Broken(plugin.problem)
        if (problem := name_problem(plugin.name)) is not None:
            raise _Broken(f"its name {problem}")
        name, _, attribute = plugin.value.partition(":")
        try:
            module = import_module(name)
            if getattr(module.__spec__, "_initializing", False):
                raise _BeingImported
            record = getattr(module, attribute)
        except (Exception, SystemExit) as error:
            if isinstance(error, _BeingImported):
                raise
            # A module may raise anything when it is imported.
            raise _Broken(f"{plugin.value} cannot be imported: {type(error).__name__}: {error}") from error
        kind = self._group.kind
        if not isinstance(record, kind):
            raise _Broken(f"{plugin.value} is {type(record).__name__}, not {kind.__module__}.{kind.__name__}")
        if record.name != plugin.name:
            raise _Broken(f"{plugin.value} has the name {record.name!r}, not {plugin.name!r}")
        return record  # type: ignore[no-any-return]


def key_of(registry: Registry[Any]) -> BeforeValidator:
    """Return a validator that accepts the names of `registry` only, with the error of a `Literal` of them."""

    def check(value: object) -> object:
        if not isinstance(value, str) or value not in registry:
            if isinstance(value, str) and (problem := registry.broken(value)) is not None:
                raise ValueError(problem)
            raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, registry))})
        return value

    return BeforeValidator(check)
