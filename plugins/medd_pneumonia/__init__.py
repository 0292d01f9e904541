"""The default classifier: pneumonia on frontal chest radiographs."""

from pathlib import Path

from medd import hookimpl
from medd.hookspecs import ClassifierSpec


@hookimpl
def register_classifiers() -> list[ClassifierSpec]:
    """The default network and the article's, each with weights trained on the data of Kermany et al. 2018."""
    return [
        ClassifierSpec(
            name="paper",
            build="medd_pneumonia.paper_cnn:build",
            bundle=Path(__file__).parent / "bundles" / "paper-1",
        ),
        ClassifierSpec(
            name="pneumonia",
            build="medd_pneumonia.pneumonia_cnn:build",
            bundle=Path(__file__).parent / "bundles" / "pneumonia-1",
        ),
    ]
