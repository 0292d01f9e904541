"""The closed loop on real images: wrong labels, corrections, a better model on duty while the daemon serves."""

import csv
import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import cv2
import pytest

from medd.testing import cheap_series
from tests.support import DATA, Daemon, RawSender, running, uid_in, wait_until

FILMS = DATA / "chest_xray" / "train"
LABELS = ("NORMAL", "PNEUMONIA")

pytestmark = [pytest.mark.data, pytest.mark.train]


def digest(film: Path) -> str:
    return hashlib.sha256(film.read_bytes()).hexdigest()


class Hospital:
    """Films of each label, a tenth of them in the wrong folder."""

    def __init__(self, folder: Path, films: int) -> None:
        self.data = folder / "data"
        self.wrong: dict[Path, str] = {}
        rng = random.Random(7)
        for label, other in (LABELS, LABELS[::-1]):
            (self.data / label).mkdir(parents=True, exist_ok=True)
            (self.data / other).mkdir(parents=True, exist_ok=True)
            # Some films lie there twice, byte for byte: one instance, one label.
            chosen = list({digest(film): film for film in sorted((FILMS / label).iterdir())}.values())
            rng.shuffle(chosen)
            for place, film in enumerate(chosen[:films]):
                folder_label = other if place < films // 10 else label
                shutil.copy(film, self.data / folder_label / film.name)
                if folder_label != label:
                    self.wrong[film] = label

    def corrections(self, table: Path) -> Path:
        with table.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("uid", "label"))
            rows.writerows((digest(film), label) for film, label in self.wrong.items())
        return table


def medd(daemon: Daemon, *arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "medd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=daemon.environment, check=False, timeout=1200)
    assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def real_series(seed: int) -> Iterator[bytes]:
    """DICOM objects with the pixels of real films: drawn ones a gate may refuse, and rightly."""
    side = 256
    films = [film for label in LABELS for film in sorted((FILMS / label).iterdir())[seed::50]]
    cheap = cheap_series(9999, rows=side, columns=side, bits=8, seed=seed, part10=False)
    for data, film in zip(cheap, cycle(films), strict=False):
        grey = cv2.imread(str(film), cv2.IMREAD_GRAYSCALE)
        yield data[: -side * side] + cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).tobytes()


class Modality:
    """Sends a film now and then, until it is told to stop."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._stop = port, threading.Event()
        self._films = real_series(seed)
        self.sent: list[str] = []
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Modality":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stop.wait(0.2):
            with RawSender(self._port) as sender:
                sender.associate()
                for film in (next(self._films), next(self._films)):
                    assert sender.store(film, uid_in(film)) == (0x0000, "")
                    self.sent.append(uid_in(film))
                sender.release()


def champion(daemon: Daemon) -> str:
    rows = json.loads(medd(daemon, "models", "list", "--format", "json"))
    [on_duty] = [row["model"] for row in rows if row["role"] == "champion"]
    return str(on_duty)


def close_the_loop(folder: Path, films: int, epochs: int, steps: int) -> None:
    hospital = Hospital(folder, films)
    daemon = Daemon(folder / "home", classifier="paper")
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f'network = "paper"\nepochs = {epochs}\nsteps_per_epoch = {steps}\nversion = "noisy"\n'
        "[preprocess]\nsize = 64\nchannels = 1\n"
    )
    noisy = folder / "noisy"
    medd(daemon, "train", hospital.data, "--recipe", recipe, "--output", noisy)
    with running(daemon):
        medd(daemon, "models", "promote", noisy, "--why", "the first one", "--who", "anna")
        medd(daemon, "ingest", *hospital.wrong)
        wait_until(lambda: daemon.query("SELECT count(*) FROM prediction WHERE model = 'paper/noisy'") != [(0,)])
        told = medd(daemon, "annotate", "--from", hospital.corrections(folder / "said.csv"), "--reader", "ben")
        assert told == f"{len(hospital.wrong)} recorded, 0 known already\n"

        with Modality(daemon.port, seed=1) as modality:
            told = medd(daemon, "retrain", hospital.data, "--min-labels", len(hospital.wrong))
            better = champion(daemon)
            assert told.startswith(f"{better}: promoted: accuracy"), told
            assert better != "paper/noisy"
            by_it = f"SELECT count(*) FROM prediction WHERE model = '{better}' AND current"
            wait_until(lambda: daemon.query(by_it)[0][0] >= 4, what="a score by the new champion")

        # Not an image was lost or done twice, and none was shown by two models.
        wait_until(lambda: daemon.query("SELECT count(*) FROM instance WHERE status = 'pending'") == [(0,)])
        uids = {uid for (uid,) in daemon.query("SELECT sop_instance_uid FROM instance")}
        assert set(modality.sent) <= uids
        assert daemon.query("SELECT count(*) FROM job WHERE state <> 'done' OR attempts <> 1") == [(0,)]
        assert daemon.query("SELECT max(n) FROM (SELECT count(*) AS n FROM prediction GROUP BY instance_id)") == [(1,)]

        [(figures,)] = daemon.query(f"SELECT figures FROM model_event WHERE what = 'promoted' AND model = '{better}'")
        compared = json.loads(figures)["comparison"]
        assert compared["accuracy_a"] > compared["accuracy_b"]
        assert json.loads(figures)["corrected"] + json.loads(figures)["corrected_test"] == len(hospital.wrong)

        told = medd(daemon, "retrain", hospital.data, "--if-changed")
        assert told == "nothing to do: nothing has changed since the last run\n"

        recipe.write_text(recipe.read_text().replace(f"epochs = {epochs}\nsteps_per_epoch = {steps}", SPOILT))
        told = medd(daemon, "retrain", hospital.data, "--recipe", recipe, "--min-labels", 0, code=1)
        assert "refused: regression: accuracy" in told, told
        assert champion(daemon) == better

        assert medd(daemon, "models", "rollback", "--why", "a drill") == "paper/noisy is on duty\n"
        before = daemon.query("SELECT max(id) FROM instance")[0][0]
        with Modality(daemon.port, seed=2):
            late = f"SELECT model FROM prediction WHERE instance_id > {before} ORDER BY id DESC LIMIT 1"
            wait_until(lambda: daemon.query(late) == [("paper/noisy",)], what="a score after the rollback")
    assert "Traceback" not in daemon.log.read_text()
    assert "worker.failed" not in daemon.log.read_text()


#: A network that has hardly begun to learn.
SPOILT = "epochs = 1\nsteps_per_epoch = 1"


@pytest.mark.timeout(1500)
def test_corrections_put_a_better_model_on_duty_and_a_worse_one_is_refused(tmp_path: Path) -> None:
    close_the_loop(tmp_path, films=300, epochs=4, steps=40)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_two_hundred_corrections_of_two_thousand_films(tmp_path: Path) -> None:
    close_the_loop(tmp_path, films=1000, epochs=8, steps=100)
