"""What the extra "train" brings, and the daemon does without."""

from importlib import util

from medd.errors import SettingsError


def require(*modules: str) -> None:
    """See that modules are installed before work that needs them begins.

    Raises:
        SettingsError: One is not.
    """
    for module in modules:
        if util.find_spec(module) is None:
            raise SettingsError(f"this needs more: pip install 'medd[train]'. Received: no module {module!r}")
