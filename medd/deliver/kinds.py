"""The kinds of destination that medd brings itself, by the hook that a stranger would use."""

from typing import Any

from medd import hookimpl


@hookimpl
def register_destinations() -> list[type[Any]]:
    """A PACS and a folder."""
    # Late: every process loads the plugins, and only the deliverer speaks to a PACS.
    from medd.deliver.files import FolderDestination
    from medd.deliver.pacs import PacsDestination

    return [FolderDestination, PacsDestination]
