"""The folder is the registry: a plugin is a module, and its file's name is its name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgedet.errors import UsageError


def names(package: str, *, prefix: str = "") -> list[str]:
    """Names of the modules in a package whose file starts with the prefix, without it, in order."""
    folder = importlib.import_module(package)
    found = (module.name for module in pkgutil.iter_modules(folder.__path__))
    return sorted(name.removeprefix(prefix) for name in found if name.startswith(prefix))


def find(package: str, name: str, *, prefix: str = "", kind: str = "module") -> ModuleType:
    """The module that the name stands for; an unknown name lists the known ones."""
    known = names(package, prefix=prefix)
    if name not in known:
        raise UsageError(f"no {kind} named {name!r}; there are: {', '.join(known)}")
    return importlib.import_module(f"{package}.{prefix}{name}")
