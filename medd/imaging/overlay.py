"""Pictures of a film with what a model says of it: for people who ask, and for a PACS."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from medd.dicom.findings import shows_heat
from medd.records import Prediction

#: How much of the hottest spot is colour.
_HEAT_SHARE = 0.55
_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Sides of a picture, pixels: no longer than this, and wide enough for the text.
LONGEST, NARROWEST = 1024, 512
_FINDING, _NO_FINDING, _GREY = (80, 170, 255), (230, 230, 230), (170, 170, 170)  # BGR


def capture(image: NDArray[np.float32], prediction: Prediction, lines: Sequence[str]) -> NDArray[np.uint8]:
    """Draw an image with what speaks for a finding in colour, and lines of text beneath, as a picture of its own.

    The text is as large at any size of film: a band of it is laid under the film, and where the film is narrower than
    the text needs, black beside it.

    Args:
        image: (H, W) float32 in [0, 1].
        prediction: What the model said of it.
        lines: ASCII; the first is the largest, and what is too long goes on in the next line.

    Returns:
        (height, width, 3) uint8 RGB, `NARROWEST` to `LONGEST` on a side, but for what is very flat.
    """
    rows, columns = image.shape
    # The band is as high as the text asks, and that asks for the width: settled for the widest that may be.
    zoom = min(LONGEST / columns, LONGEST / rows)
    width = max(NARROWEST, min(LONGEST, round(columns * zoom)))
    text = _typeset(lines, width, _FINDING if prediction.positive else _NO_FINDING)
    zoom = min(width / columns, (LONGEST - text.shape[0]) / rows)
    height, inner = max(1, round(rows * zoom)), max(1, round(columns * zoom))
    picture = np.zeros((height + text.shape[0], width, 3), np.uint8)
    left = (width - inner) // 2
    picture[:height, left : left + inner] = _film(image, prediction, height, inner)
    picture[height:] = text
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _typeset(lines: Sequence[str], width: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lines of text on black, broken where they are too long: (height, width, 3) uint8 BGR."""
    unit = width / LONGEST  # the text grows with the picture, from what is legible at the narrowest
    set_lines = []
    for place, line in enumerate(lines):
        size, thick, tint = (1.15 * unit, 2, colour) if place == 0 else (0.95 * unit, 1, _GREY)
        set_lines += [(part, size, thick, tint) for part in _break(line, size, thick, width - 24)]
    step = round(42 * unit)
    band = np.zeros((step * len(set_lines) + step // 2, width, 3), np.uint8)
    for row, (part, size, thick, tint) in enumerate(set_lines, 1):
        cv2.putText(band, part, (12, step * row), _FONT, size, tint, thick, cv2.LINE_AA)
    return band


def _break(line: str, size: float, thick: int, width: int) -> list[str]:
    """Break a line between words; a word longer than the width is cut into pieces that fit."""
    broken = [""]
    for word in line.split(" "):
        longer = f"{broken[-1]} {word}".lstrip() if broken[-1] else word
        if _length(longer, size, thick) <= width:
            broken[-1] = longer
            continue
        broken += [word] if broken[-1] else []
        if not broken[-1]:
            broken[-1] = word
        while len(broken[-1]) > 1 and _length(broken[-1], size, thick) > width:
            fits = next(
                n for n in range(len(broken[-1]) - 1, 0, -1) if n == 1 or _length(broken[-1][:n], size, thick) <= width
            )
            broken[-1:] = [broken[-1][:fits], broken[-1][fits:]]
    return broken


def _length(text: str, size: float, thick: int) -> int:
    return int(cv2.getTextSize(text, _FONT, size, thick)[0][0])


def _film(image: NDArray[np.float32], prediction: Prediction, height: int, width: int) -> NDArray[np.uint8]:
    """A film in another size, with the heat map of a finding over it: (height, width, 3) uint8 BGR."""
    shrink = image.shape[1] > width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    grey = np.clip(resized * 255, 0, 255).astype(np.uint8)
    film = np.repeat(grey[..., np.newaxis], 3, axis=2)
    for attachment in prediction.attachments:
        if attachment.name == "heat" and shows_heat(prediction):
            film = _warm(film, attachment.content)
    return film


def _warm(picture: NDArray[np.uint8], content: bytes) -> NDArray[np.uint8]:
    """Lay a heat map over a picture: the hotter, the more colour; where nothing speaks for a finding, the film itself.

    Args:
        picture: (H, W, 3) uint8.
        content: The heat map as a grey PNG of any size.
    """
    small = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    heat = cv2.resize(small, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_CUBIC)
    share = (heat.astype(np.float32) / 255)[..., np.newaxis] * _HEAT_SHARE
    colours = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
    return np.asarray(picture * (1 - share) + colours * share, np.uint8)
