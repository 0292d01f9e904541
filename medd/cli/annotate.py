"""``medd annotate`` and ``medd annotations``."""

from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, user_name, write_rows
from medd.errors import SettingsError

_SHOWN = ("at", "instance_id", "label", "reader", "counts", "contradicted", "comment", "sop_instance_uid")


def annotate(
    uid: Annotated[
        str | None, typer.Argument(metavar="UID", help="SOP Instance UID; or SHA-256, or instance id.")
    ] = None,
    label: Annotated[
        str | None, typer.Argument(help="What the image shows: a label of the model on duty; ? where you cannot tell.")
    ] = None,
    reader: Annotated[str | None, typer.Option(help="Who says so.  [default: your user name]")] = None,
    comment: Annotated[str, typer.Option(help="A sentence more.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take back what the reader said of UID.")] = False,
    file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Many at once: a CSV with uid, label[, reader].")
    ] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Record what a reader says the truth of an image is. Of several by one reader the newest counts.

    Who cannot tell ("?") and what was taken back (--undo) is kept, and never learned from.
    """
    from medd import pipeline, plugins, settings
    from medd.registry import annotate as taking
    from medd.registry.registry import find_spec

    loaded = settings.load(home, config)
    if undo and uid is not None and label is None and file is None:
        withdrawn = taking.withdraw(pipeline.open_existing_database(loaded), uid, reader or user_name(), comment)
        print("withdrawn" if withdrawn else "nothing was said")
        return
    if undo:
        raise SettingsError("--undo takes a UID and nothing else")
    if file is None and uid is not None and label is not None:
        said = [taking.Said(uid, label, reader or user_name(), comment)]
    elif file is not None and uid is None and label is None:
        said = taking.read_file(file, reader or user_name(), comment)
    else:
        raise SettingsError("UID and LABEL are needed, or --from FILE")
    database = pipeline.open_existing_database(loaded)
    spec = find_spec(loaded.model.classifier, plugins.classifiers(pipeline.load_plugins(loaded)))
    new = taking.annotate(database, spec, said)
    print(f"{new} recorded, {len(said) - new} known already")


def annotations(
    contradicted: Annotated[bool, typer.Option("--contradicted", help="Only where readers disagree.")] = False,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show what readers said, newest first, and where they contradict each other.

    An empty label takes back what the reader said before; "?" says that the reader cannot tell.
    """
    from medd import pipeline, settings
    from medd.store.annotations import COLUMNS, list_annotations

    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        write_rows(list_annotations(connection, contradicted=contradicted), COLUMNS, style, _SHOWN)
