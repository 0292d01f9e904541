from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Draw = Callable[..., Path]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Write one grey PNG of noise, brighter for a higher level: never twice the same bytes for different seeds."""

    def write(path: Path, seed: int, level: float = 0.3, size: int = 80) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).random((size, size))
        assert cv2.imwrite(str(path), np.uint8(255 * np.clip(level + 0.2 * noise, 0, 1)))
        return path

    return write


@pytest.fixture(scope="session")
def two_labels(tmp_path_factory: pytest.TempPathFactory, draw: Draw) -> Path:
    """Twelve images of each of NORMAL and PNEUMONIA, two for each patient, and one file that is no image."""
    data = tmp_path_factory.mktemp("two")
    for number in range(12):
        draw(data / "NORMAL" / f"IM-{number // 2:04}-{number:04}.png", number, 0.2)
        draw(data / "PNEUMONIA" / f"person{number // 2}_bacteria_{number}.png", 100 + number, 0.6)
    (data / "NORMAL" / "IM-0001-9999.png").write_bytes(b"not a picture")
    return data


@pytest.fixture(scope="session")
def three_labels(tmp_path_factory: pytest.TempPathFactory, draw: Draw) -> Path:
    """Six images of each of BACTERIA, NORMAL and VIRUS."""
    data = tmp_path_factory.mktemp("three")
    for number in range(6):
        draw(data / "BACTERIA" / f"person{number}_bacteria_1.png", number, 0.5)
        draw(data / "NORMAL" / f"NORMAL2-IM-{number:04}-0001.png", 100 + number, 0.1)
        draw(data / "VIRUS" / f"person{100 + number}_virus_1.png", 200 + number, 0.8)
    return data
