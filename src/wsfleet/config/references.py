"""Resolves `module:function`, with the file's directory first in the import path."""

from __future__ import annotations

import importlib
import re
import symtable
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from wsfleet.config.faults import BadValue, did_you_mean
from wsfleet.core.redact import redact_text

__all__ = ["References", "is_reference"]

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"({_DOTTED}):({_DOTTED})")

# The directory from which each top-level module was imported for a file. A file in another directory may have its own
# module `handlers`, and must not get the first one.
_origins: dict[str, Path] = {}


def is_reference(text: str) -> bool:
    """Whether `text` has the form `module:function`."""
    return _REFERENCE.fullmatch(text) is not None


class References:
    """Resolves references. Every module is imported only once, also if the import fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._modules: dict[str, ModuleType | BadValue] = {}
        self._old: set[ModuleType] = set()  # imported earlier, so their files may have changed since

    def find(self, reference: str, like: type | None = None) -> Any:
        """Return the object that `module:function` names. Both sides may be dotted.

        Raises BadValue, with a hint at similar names: of instances of `like` if there are any, or else of functions.
        """
        parts = _REFERENCE.fullmatch(reference)
        if parts is None:
            raise BadValue(f'{reference!r} is not a function; write "module:function"')
        name = parts[1]
        if name not in self._modules:
            self._modules[name] = self._import(name)
        found: Any = self._modules[name]
        if isinstance(found, BadValue):
            raise found
        for step in parts[2].split("."):
            if not hasattr(found, step):
                if isinstance(found, ModuleType) and found in self._old and _assigns(found, step):
                    where = self._format_value(found)
                    raise BadValue(f"this process imported {where} before it had {step!r}; restart to use it")
                raise BadValue(f"{self._format_value(found)} has no {step!r}; {_hint(step, found, like)}")
            found = getattr(found, step)
        return found

    def _format_value(self, found: Any) -> str:
        if not isinstance(found, ModuleType):
            return str(getattr(found, "__name__", type(found).__name__))
        return str(getattr(found, "__file__", None) or found.__name__)

    def _import(self, name: str) -> ModuleType | BadValue:
        top = name.partition(".")[0]
        self._prefer_own_folder(top)
        is_old = name in sys.modules
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                return self._failed(name, exc)
            modules = [path.stem for path in self._folder.glob("*.py")]
            hint = did_you_mean(name, modules) if modules else f"create {name.replace('.', '/')}.py"
            return BadValue(f"there is no module {name!r} in {self._folder}; {hint}")
        except (Exception, SystemExit) as exc:
            return self._failed(name, exc)
        if Path(getattr(sys.modules[top], "__file__", None) or "/").is_relative_to(self._folder):
            _origins[top] = self._folder
        if is_old:
            self._old.add(module)
        return module

    def _prefer_own_folder(self, top: str) -> None:
        folder = str(self._folder)
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()  # the module's file may be newer than the cached directory listing
        if _origins.get(top, self._folder) != self._folder:
            for module in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
                del sys.modules[module]

    def _failed(self, name: str, error: BaseException) -> BadValue:
        # The last frame in the user's code; the frames of the import machinery are of no use.
        where = ""
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(self._folder):
                where = f" ({Path(frame.filename).name}, line {frame.lineno})"
        text = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))
        return BadValue(f"importing {name!r} failed: {text}{where}")


def _hint(step: str, found: Any, like: type | None) -> str:
    own = {name: value for name, value in getattr(found, "__dict__", {}).items() if not name.startswith("_")}
    wanted = [name for name, value in own.items() if like is not None and isinstance(value, like)]
    if not wanted:  # functions defined in the module itself, not those that it imports
        module = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
        wanted = [
            name for name, value in own.items() if callable(value) and getattr(value, "__module__", None) == module
        ]
    return did_you_mean(step, wanted) if 0 < len(wanted) <= 20 else "define it there"


def _assigns(module: ModuleType, name: str) -> bool:
    """Whether the source of the module's file defines `name`."""
    try:
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        return symtable.symtable(text, "", "exec").lookup(name).is_assigned()
    except (OSError, SyntaxError, ValueError, KeyError):
        return False
