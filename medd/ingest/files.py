"""Files that are handed in by name."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from medd.errors import InputError
from medd.ingest.intake import Intake, Receipt
from medd.ingest.watch import files_below


def receive_paths(paths: Iterable[Path], intake: Intake, priority: int = 0) -> Iterator[tuple[Path, Receipt | str]]:
    """Take in files, and folders with all that is below them.

    Yields:
        Each file with its receipt, or with the reason why there is none.

    Raises:
        TransientError: The spool or the database failed.
    """
    for path in paths:
        try:
            folder = path.is_dir()
            for file in files_below(path) if folder else (path,):
                relative = (path.name / file.relative_to(path) if folder else Path(file.name)).as_posix()
                try:
                    yield file, intake.receive_file(file, f"file:{relative}", priority)
                except InputError as error:
                    yield file, str(error)
                except OSError as error:
                    yield file, f"cannot be read. Received: {error.strerror}"
        except OSError as error:
            yield path, f"cannot be read. Received: {error.strerror}"
