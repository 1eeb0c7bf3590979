"""Finds `module:function`, with the file's folder as the first place to look for modules."""

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

# Modules by top name, and the folder that they were imported from for a file. Another file in another folder may
# have a `handlers` of its own; it must not get the first one's.
_homes: dict[str, Path] = {}


def is_reference(text: str) -> bool:
    """Tell whether `text` has the shape `module:function`."""
    return _REFERENCE.fullmatch(text) is not None


class References:
    """Finds what references mean. Every module is imported once, also one that fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._modules: dict[str, ModuleType | BadValue] = {}
        self._old: set[ModuleType] = set()  # imported before we came: their files may say something else by now

    def find(self, reference: str, like: type | None = None) -> Any:
        """Return what `module:function` names; dots on both sides go deeper.

        Raises BadValue, with a hint at functions, or first at instances of `like`, that may have been meant.
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
        self._look_here_first(top)
        is_old = name in sys.modules
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                return self._failed(name, exc)
            there = [path.stem for path in self._folder.glob("*.py")]
            hint = did_you_mean(name, there) if there else f"make {name.replace('.', '/')}.py"
            return BadValue(f"there is no module {name!r} in {self._folder}; {hint}")
        except (Exception, SystemExit) as exc:
            return self._failed(name, exc)
        if Path(getattr(sys.modules[top], "__file__", None) or "/").is_relative_to(self._folder):
            _homes[top] = self._folder
        if is_old:
            self._old.add(module)
        return module

    def _look_here_first(self, top: str) -> None:
        folder = str(self._folder)
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()  # the file may be younger than the last look into its folder
        if _homes.get(top, self._folder) != self._folder:
            for module in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
                del sys.modules[module]

    def _failed(self, name: str, error: BaseException) -> BadValue:
        # Where in the user's own code it happened; the frames of the import machinery say nothing.
        where = ""
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(self._folder):
                where = f" ({Path(frame.filename).name}, line {frame.lineno})"
        text = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))
        return BadValue(f"importing {name!r} failed: {text}{where}; it must be importable without running anything")


def _hint(step: str, found: Any, like: type | None) -> str:
    own = {name: value for name, value in getattr(found, "__dict__", {}).items() if not name.startswith("_")}
    wanted = [name for name, value in own.items() if like is not None and isinstance(value, like)]
    if not wanted:  # what it has imported itself is hardly meant
        home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
        wanted = [name for name, value in own.items() if callable(value) and getattr(value, "__module__", None) == home]
    return did_you_mean(step, wanted) if 0 < len(wanted) <= 20 else "define it there"


def _assigns(module: ModuleType, name: str) -> bool:
    """Whether the text of the module's file gives something this name."""
    try:
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        return symtable.symtable(text, "", "exec").lookup(name).is_assigned()
    except (OSError, SyntaxError, ValueError, KeyError):
        return False
