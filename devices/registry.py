"""Registries: what can be chosen by name, and how others add to it from outside.

    LAWS = Registry[type[Law]]("law", "mho.laws")

    @LAWS.register("ohm")
    class Ohm(Law): ...

    LAWS["ohm"]

A package names what it adds in an entry point of the registry's group, so that every process finds it, workers too: ::

    [project.entry-points."mho.laws"]
    ohm = "their_package.laws:Ohm"

Entry points are looked for when a name is not known, or all are listed; one is loaded when its name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from .code import note
from .units import brief

T = TypeVar("T")
S = TypeVar("S")
NONE = "none that is known here (import the module that adds it)"
HINT = "one of your own is known once its module is imported (imports: in a sweep file, --import in commands)"


class Registry(Generic[T]):
    """Classes or functions by name.

    Args:
        what: what they are, for messages: "programming error".
        group: of the entry points that add to them: "mho.programming".
        check: called with name and thing before it is added; raises TypeError for what does not fit.
    """

    def __init__(self, what: str, group: str, check: Callable[[str, Any], None] | None = None) -> None:
        self.what, self.group = what, group
        self._check = check
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[S], S]:
        """A decorator that adds a class or function under a name, and returns it.

        Raises:
            TypeError: no name, as of a decorator that was not called.
        """
        self._check_name(name)

        def registered(thing: S) -> S:
            self.add(name, thing)
            return thing

        return registered

    def add(self, name: str, thing: Any) -> None:
        """Add a thing. The same code again (a module imported anew, a cell of a notebook) takes the place of the old.

        Raises:
            ValueError: other code has the name.
            TypeError: no name, or what `check` refuses.
        """
        self._check_name(name)
        if self._check is not None:
            self._check(name, thing)
        before = self._things.get(name)
        if before is not None and _code(before) != _code(thing):
            raise ValueError(
                f"{self.what} {name!r} is {_code(before)} already; {_code(thing)} must have a name of its own"
            )
        note(thing)
        self._things[name] = thing

    def _check_name(self, name: Any) -> None:
        if not (isinstance(name, str) and name.isprintable() and name.strip() == name != ""):
            raise TypeError(f"{self.what}: a name must be text of printable characters, got {brief(name)}")

    def __getitem__(self, name: str) -> T:
        """What has the name.

        Raises:
            ValueError: nothing has, with the names that there are; or an entry point that does not load.
        """
        if isinstance(name, str) and name not in self._things:
            for point in entry_points(group=self.group):
                if point.name == name:
                    self._load(point)
        if not isinstance(name, str) or name not in self._things:
            raise ValueError(f"{self.what} must be one of {', '.join(self) or NONE}, got {brief(name)}")
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._things or any(name == other for other in self))

    def __iter__(self) -> Iterator[str]:
        """All names: those added, in their order, then those of entry points not loaded yet."""
        found = [point.name for point in entry_points(group=self.group)]
        return iter(dict.fromkeys([*self._things, *found]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def loaded(self) -> dict[str, T]:
        """What was added so far, by name."""
        return dict(self._things)

    def _load(self, point: EntryPoint) -> None:
        try:
            thing = point.load()
            if point.name not in self._things and not isinstance(thing, ModuleType):
                self.add(point.name, thing)
        except Exception as error:
            raise ValueError(
                f"{self.what} {point.name!r}: its entry point {point.value} does not load: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if point.name not in self._things:
            raise ValueError(f"{self.what} {point.name!r}: its entry point {point.value} does not add it")


def check_class(what: str, name: str, thing: Any, base: type) -> None:
    """Raises TypeError for what is no class derived from `base`, or lacks some of what that asks for."""
    where = f"{base.__module__}.{base.__qualname__}"
    if not (isinstance(thing, type) and issubclass(thing, base)):
        raise TypeError(f"{what} {name!r} must be a class derived from {where}, got {brief(thing)}")
    if missing := ", ".join(sorted(getattr(thing, "__abstractmethods__", ()))):
        raise TypeError(f"{what} {name!r}: {thing.__name__} must define {missing}, see {where}")


def _code(thing: Any) -> str:
    """Where a thing was written."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
