"""The whole journey on sample studies, through the real port and the real folder."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from medd.errors import TransientError
from medd.records import DeliveryState, Status
from medd.store.database import Database
from medd.store.outbox import count_deliveries
from medd.store.repository import count_statuses

#: Longest wait for the last score, seconds.
PATIENCE_S = 300.0


def run(home: Path, images: int) -> int:
    """Run the demo in `home`; returns an exit code.

    Raises:
        MeddError: Something of it failed.
    """
    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    home = home.absolute()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDD_")}
    environment |= {"MEDD_LISTENER__PORT": "0", "MEDD_LOG__LEVEL": "WARNING", "MEDD_STUDY__QUIET_S": "1"}
    environment["MEDD_WEB__ENABLED"] = "false"  # its port may be that of a medd which runs in earnest
    environment["MEDD_DESTINATION"] = json.dumps([{"type": "folder", "formats": ["json", "dicom"]}])
    say(f"1  starting the daemon: medd serve --home {home}")
    command = [sys.executable, "-m", "medd", "serve", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        try:
            assert daemon.stdout is not None
            ready = daemon.stdout.readline().strip()
            if not ready.startswith("ready:"):
                raise TransientError("the daemon did not start; its own line above says why")
            say(f"   {ready}")
            with tempfile.TemporaryDirectory() as folder:
                say(f"2  drawing {images} synthetic chest films, half with an opacity, and one called lateral")
                samples = _draw(Path(folder), images)
                dicom = [path for path in samples if path.suffix == ".dcm"]
                pictures = [path for path in samples if path.suffix != ".dcm"]
                say(f"3  sending {len(dicom)} DICOM images by C-STORE, laying {len(pictures)} JPEGs into the folder")
                host, port = ready.split("@", 1)[1].split(",")[0].rsplit(":", 1)
                _send(dicom, host, int(port))
                for picture in pictures:
                    shutil.copy(picture, home / "inbox" / picture.name)
            database = Database(f"sqlite:///{home / 'medd.db'}")
            _wait(database, len(samples), console)
            say("   (these films are drawings: what a model says of them means nothing)")
            say("4  the worklist, most urgent first: medd worklist")
            _show_worklist(home, environment)
            say("5  reports, pictures with the heat map, and presentation states, as a PACS would be sent them")
            _wait_for_deliveries(database)
            say(f"   {len(list((home / 'results').glob('*.dcm')))} DICOM objects in {home / 'results'}")
        finally:
            daemon.terminate()
    say(f"6  the daemon is stopped. The results stay in {home / 'medd.db'}, the images in {home / 'spool'}:")
    say(f"   medd results --home {home} --format json")
    say(f"   medd serve --home {home}     # and the reading room is at http://127.0.0.1:8080/")
    say(f"   sqlite3 {home / 'medd.db'} 'SELECT status, label, probability FROM results'")
    return 0


def _draw(folder: Path, images: int) -> Sequence[Path]:
    from medd.testing import dicom_radiograph, write_samples

    lateral = folder / "lateral.dcm"
    dicom_radiograph(images, ViewPosition="LL").save_as(lateral, enforce_file_format=True)
    return [*write_samples(folder, images), lateral]


def _send(paths: Sequence[Path], host: str, port: int) -> None:
    """Send files with pynetdicom's SCU, as a modality would."""
    from pydicom import dcmread
    from pynetdicom import AE

    sender = AE(ae_title="DEMO")
    datasets = [dcmread(path) for path in paths]
    for dataset in datasets:
        sender.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = sender.associate(host, port, ae_title="MEDD")
    if not association.is_established:
        raise TransientError(f"{host} port {port} does not accept an association")
    for dataset in datasets:
        status = association.send_c_store(dataset)
        if not status or status.Status != 0x0000:
            raise TransientError(f"{dataset.SOPInstanceUID} was not stored. Received: {status}")
    association.release()


def _wait(database: Database, images: int, console: Console) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("   scoring", total=images)
        while True:
            with database.read() as connection:
                counts = count_statuses(connection)
            finished = sum(counts.values()) - counts[Status.PENDING]
            progress.update(bar, completed=finished)
            if finished >= images:
                break
            if time.monotonic() > deadline:
                raise TransientError(f"{images - finished} of {images} images are not scored after {PATIENCE_S:.0f} s")
            time.sleep(0.1)
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"   {shown}")


def _wait_for_deliveries(database: Database) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with database.read() as connection:
            counts = count_deliveries(connection)
        if counts[DeliveryState.DEAD]:
            raise TransientError("a delivery failed: medd queue list says why")
        if sum(counts.values()) == counts[DeliveryState.DONE]:
            return
        if time.monotonic() > deadline:
            raise TransientError(f"the results are not delivered after {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _show_worklist(home: Path, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "medd", "worklist", "--home", str(home)], env=environment, check=True)
