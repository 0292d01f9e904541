"""A picture of how long studies wait."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medd.learn.plots import COLOURS, new_figure, save
from medd.triage.compare import ORDERS, Waits

_NAMES = {"fcfs": "first come, first served", "worklist": "worklist"}
_GROUPS = {"positive": "with a finding", "negative": "without a finding"}
#: Beyond this share of studies the scatter of single ones is all that is left.
_LAST = 2e-4


def waits(path: Path, runs: Sequence[Waits], max_wait_s: float | None) -> None:
    """Draw which share of studies is still unread after so many minutes, by order, of all runs together."""
    figure = new_figure(9, 4)
    for axes, (group, title) in zip(figure.subplots(1, 2, sharey=True), _GROUPS.items(), strict=True):
        for order, colour in zip(ORDERS, COLOURS, strict=True):
            minutes = np.sort(np.concatenate([run[order][group] for run in runs])) / 60
            unread = 1 - np.arange(len(minutes)) / max(1, len(minutes))
            mean = f", mean {minutes.mean():.1f} min" if len(minutes) else ""
            axes.plot(minutes, unread, color=colour, lw=1.8, label=_NAMES[order] + mean)
        if max_wait_s:
            axes.axvline(max_wait_s / 60, color="0.6", lw=1, ls="--", label="worklist.max_wait_min")
        axes.set(title=title, xlabel="minutes since it came", yscale="log", ylim=(_LAST, 1.1))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, framealpha=0.9)
    figure.axes[0].set_ylabel("share that nobody has opened")
    save(figure, path)
