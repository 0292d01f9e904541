"""Transfer learning: a backbone that knows photographs, with a new head for radiographs. Ships no weights."""

from medd import hookimpl
from medd.hookspecs import ClassifierSpec


@hookimpl
def register_classifiers() -> list[ClassifierSpec]:
    """The networks of keras.applications, frozen first and fine-tuned later."""
    return [ClassifierSpec(name="transfer", build="medd_transfer.network:build", thaw="medd_transfer.network:thaw")]
