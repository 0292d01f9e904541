"""The plugin that brings the stub classifier: ``load_plugins(builtin=(stub_plugin,))``."""

from pathlib import Path

from medd import hookimpl
from medd.hookspecs import ClassifierSpec


def spec(bundle: Path | None = None) -> ClassifierSpec:
    """The stub classifier, with `bundle` on duty."""
    return ClassifierSpec(name="stub", load="medd.testing:load_stub", bundle=bundle)


@hookimpl
def register_classifiers() -> list[ClassifierSpec]:
    """The stub, without a bundle."""
    return [spec()]
