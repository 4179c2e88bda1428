"""Optional packages: imported where they are used, with an error that names the extra."""

import importlib
from types import ModuleType

from clarion.errors import MissingDependencyError

__all__ = ["require"]


def require(feature: str, module: str, extra: str) -> ModuleType:
    """Return a module that an extra of clarion installs.

    Args:
        feature: What needs it, for the message.
        module: The module's name; its first part is the package.
        extra: The name of the extra.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(feature, package, extra) from error
    return importlib.import_module(module)
