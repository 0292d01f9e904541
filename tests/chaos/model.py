"""The stub classifier and hooks, which misbehave when a file in the folder CHAOS_SWITCHES tells them to."""

import os
import time
from pathlib import Path

from medd import hookimpl
from medd.hookspecs import ClassifierSpec
from medd.testing.stub import StubClassifier, load_stub

#: As long as the tests are concerned, for ever.
FOREVER_S = 3600.0


def switch(name: str) -> Path:
    return Path(os.environ["CHAOS_SWITCHES"]) / name


def take(name: str) -> bool:
    """Whether a switch is on; it is off afterwards."""
    try:
        switch(name).unlink()
    except FileNotFoundError:
        return False
    return True


class Model(StubClassifier):
    """Hangs in the middle of its work when it is told to, once."""

    def predict(self, batch):
        if take("model-hangs"):
            time.sleep(FOREVER_S)
        return super().predict(batch)


def load(folder: Path, threads: int = 0) -> Model:
    load_stub(folder, threads)  # which reads the bundle's file
    return Model(delay_s=0.02)


@hookimpl
def register_classifiers():
    return [ClassifierSpec(name="stub", load="tests.chaos.model:load", bundle=switch("..").resolve() / "stub-bundle")]


def _misbehave(stage: str) -> None:
    if switch("plugin-raises").exists():
        raise RuntimeError("a plugin of a stranger")
    if take(f"plugin-hangs-in-{stage}"):
        time.sleep(FOREVER_S)


@hookimpl
def instance_received(instance, header):
    _misbehave("receive")


@hookimpl
def prediction_recorded(prediction):
    _misbehave("work")


@hookimpl
def delivery_sent(delivery, report):
    _misbehave("deliver")
