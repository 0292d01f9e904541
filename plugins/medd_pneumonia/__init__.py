"""The default classifier: pneumonia on frontal chest radiographs."""

from pathlib import Path

from medd import hookimpl
from medd.hookspecs import ClassifierSpec

_HERE = Path(__file__).parent
#: SNOMED CT. The networks here say PNEUMONIA; a model that tells the two kinds apart has the labels below it.
_CODES = {
    "PNEUMONIA": ("233604007", "SCT", "Pneumonia"),
    "BACTERIA": ("53084003", "SCT", "Bacterial pneumonia"),
    "VIRUS": ("75570004", "SCT", "Viral pneumonia"),
}


@hookimpl
def register_classifiers() -> list[ClassifierSpec]:
    """The default network and the article's, each with weights trained on the data of Kermany et al. 2018."""
    return [
        ClassifierSpec(
            name="paper",
            build="medd_pneumonia.paper_cnn:build",
            bundle=_HERE / "bundles" / "paper-1",
            about=_HERE / "about" / "paper-1",
            codes=_CODES,
        ),
        ClassifierSpec(
            name="pneumonia",
            build="medd_pneumonia.pneumonia_cnn:build",
            bundle=_HERE / "bundles" / "pneumonia-1",
            about=_HERE / "about" / "pneumonia-1",
            codes=_CODES,
        ),
    ]
