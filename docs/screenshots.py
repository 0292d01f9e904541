"""Makes the pictures of `docs/images`: the reading room in Debian's Chromium, with synthetic films and no patient.

Run from the repository's root: ``python docs/screenshots.py``.
"""

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from medd import plugins, settings  # noqa: E402
from medd.records import DeliveryState  # noqa: E402
from medd.registry.registry import find_spec, find_usable  # noqa: E402
from medd.store.studies import mark_read  # noqa: E402
from medd.store.tables import delivery  # noqa: E402
from medd.testing import dicom_radiograph  # noqa: E402
from tests.browser import PHONE, Visit, chromium  # noqa: E402
from tests.ward import Ward  # noqa: E402
from tests.web import running_web, web_settings  # noqa: E402

IMAGES = ROOT / "docs" / "images"
#: Bytes of a picture in all its colours.
MOST = 190_000
ORIGINS = ("dicom://CR1@10.0.0.21", "dicom://DX_WARD3@10.0.0.34", "dicom://PORTABLE@10.0.0.8")
MODEL, THRESHOLD = "pneumonia/1", 0.4849


class Hospital:
    """Films of an afternoon."""

    def __init__(self, ward: Ward) -> None:
        self.ward = ward

    def film(self, seed: int, probability: float | None, minutes: float, **attributes: Any) -> int:
        """One film, received so long ago and scored."""
        positive = (probability or 0) >= THRESHOLD
        film = dicom_radiograph(seed, size=(640, 530), opacity=positive, **attributes)
        id_ = self.ward.receive(film, ORIGINS[seed % 3])
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        self.ward.wait(id_, minutes)
        if probability is not None:
            said = {"model": MODEL, "threshold": THRESHOLD, "positive": positive}
            said |= {"label": "PNEUMONIA" if positive else "NORMAL", "preprocess_digest": "5c1b1ee9c0f2a7d3"}
            self.ward.score(id_, probability, seed=seed, scored_at=at + timedelta(seconds=3), **said)
        return id_

    def send(self, seed: int, state: DeliveryState, error: str | None = None) -> None:
        """How far the delivery of a film's study is."""
        now = datetime.now(UTC)
        row = {"study": str(dicom_radiograph(seed, size=64).StudyInstanceUID), "destination": "pacs", "revision": 1}
        with self.ward.database.write() as connection:
            connection.execute(delivery.insert().values(**row, state=state, error=error, available_at=now, due_by=now))

    def fill(self) -> None:
        """All of it."""
        rng = np.random.default_rng(3)
        self.film(6, 0.31, 301)
        for seed, probability, minutes in (
            (1, 0.982, 14),
            (2, 0.931, 47),
            (3, 0.774, 5),
            (4, 0.61, 92),
            (5, 0.497, 33),
        ):
            self.film(seed, probability, minutes)
        for seed in range(7, 22):
            self.film(seed, float(rng.uniform(0.002, 0.4)), float(rng.uniform(3, 200)))
        self.film(30, None, 0.5)
        self.ward.refuse(self.film(32, None, 25))
        self.film(33, None, 40, ViewPosition="LL")
        first = dicom_radiograph(1, size=64)
        self.film(41, 0.12, 60 * 24 * 9, patient_id=str(first.PatientID), patient_name=str(first.PatientName))
        with self.ward.database.write() as connection:
            earlier = str(dicom_radiograph(41, size=64).StudyInstanceUID)
            mark_read(connection, earlier, "dr.lind", datetime.now(UTC) - timedelta(days=9))
        for seed in (1, 2, 8, 9):
            self.send(seed, DeliveryState.DONE)
        self.send(3, DeliveryState.PENDING)
        self.send(4, DeliveryState.DEAD, "pacs refuses Structured Report Storage: 0x0122")


def keep(visit: Visit, name: str) -> None:
    """A screenshot as a small PNG: in all its colours, or in 256 where that is too much."""
    from PIL import Image

    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{name}.png"
    picture = Image.open(BytesIO(visit.page.screenshot())).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST:
        palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        home = web_settings(Path(folder) / "home")
        wanted = home.model_copy(update={"model": settings.ModelSettings(classifier="pneumonia")})
        with running_web(wanted) as web, chromium() as browser:
            specs = plugins.classifiers(web.context.manager)
            find_usable(web.database, find_spec("pneumonia", specs))
            Hospital(Ward(web, Path(folder))).fill()
            desk = Visit(browser, web.url, color_scheme="dark", viewport={"width": 1360, "height": 800})
            desk.open("/")
            desk.page.wait_for_selector(".live.is-live")
            keep(desk, "worklist")
            desk.page.locator("tr[data-place=finding] a.open").first.click()
            desk.page.wait_for_selector("#viewer[data-ready]")
            desk.page.get_by_role("button", name="Heat map").click()
            desk.page.wait_for_timeout(500)
            keep(desk, "case")
            light = Visit(browser, web.url, color_scheme="light", viewport={"width": 1360, "height": 800})
            light.open("/models")
            light.page.wait_for_load_state("networkidle")
            keep(light, "models")
            phone = Visit(browser, web.url, color_scheme="dark", device_scale_factor=2, **PHONE)
            phone.open("/")
            phone.page.wait_for_selector(".live.is-live")
            keep(phone, "phone")


if __name__ == "__main__":
    main()
