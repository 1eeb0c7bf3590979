"""The names in use in one fleet: endpoints, pool members and subscriptions share one namespace."""

from __future__ import annotations

from wsfleet.core.checks import check_name, make_name
from wsfleet.core.errors import ConfigError

__all__ = ["Names"]


class Names:
    """Assigns names; each is in use once at a time."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str | None, default: str) -> str:
        """Take `name`, or a free name made from `default`. Raises ConfigError if `name` is invalid or in use."""
        if name is not None:
            fault = check_name(name)
            if fault:
                raise ConfigError(f"the name {fault}", (("name", fault),))
            if name in self._taken:
                raise ConfigError(f"the name {name!r} is in use", (("name", f"{name!r} is in use"),))
        else:
            base = make_name(default)
            name, number = base, 1
            while name in self._taken:
                number += 1
                name = f"{base}-{number}"
        self._taken.add(name)
        return name

    def take_group(self, name: str | None, default: str, size: int) -> str:
        """Take a name and the names of its members, `name-1` to `name-size`, together. Raises as `take`."""
        if name is None:
            base = self.take(None, default)
            self.free(base)
            name, number = base, 1
            while not self._is_free(name, size):
                number += 1
                name = f"{base}-{number}"
        elif check_name(name) is None and name not in self._taken:
            taken = next((member for member in _members(name, size) if member in self._taken), None)
            if taken is not None:
                raise ConfigError(f"the name {taken!r} is in use", (("name", f"{taken!r} is in use"),))
        self.take(name, name)
        self._taken.update(_members(name, size))
        return name

    def _is_free(self, name: str, size: int) -> bool:
        return name not in self._taken and not self._taken.intersection(_members(name, size))

    def number(self, base: str) -> str:
        """Take the first free name of `base-1`, `base-2` and so on."""
        number = 1
        while f"{base}-{number}" in self._taken:
            number += 1
        return self.take(f"{base}-{number}", base)

    def free(self, name: str) -> None:
        """Give a name back."""
        self._taken.discard(name)


def _members(name: str, size: int) -> list[str]:
    return [f"{name}-{number}" for number in range(1, size + 1)]
