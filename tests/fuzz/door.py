"""The door of medd in a folder: database, spool, intake; and what is decoded of it."""

from pathlib import Path

from medd import plugins
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.store.database import Database, check_schema
from medd.store.spool import Spool


class Door:
    """An intake on SQLite with the built-in gate, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'medd.db'}")
        check_schema(self.database)
        self.spool = Spool(folder / "spool")
        self.spool.prepare()
        self.manager = plugins.load_plugins(builtin=(admission,))
        self.intake = Intake(self.database, self.spool, self.manager)

    def close(self) -> None:
        self.intake.close()
        self.database.close()
