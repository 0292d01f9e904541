"""The test kit that ships with medd: synthetic films, broken inputs, a stub classifier, a classifier's contract.

Everything is drawn or computed here: no network, no data set, no patient. The same seed gives the same bytes.
"""

from medd.testing.broken import EXPECTED_REASONS, bad_inputs
from medd.testing.contract import check_classifier
from medd.testing.films import cheap_series, dicom_radiograph, jpeg_radiograph, write_samples
from medd.testing.phantom import lung_field, radiograph
from medd.testing.stub import StubClassifier, load_stub, stub_bundle, write_stub_plugin

__all__ = [
    "EXPECTED_REASONS",
    "StubClassifier",
    "bad_inputs",
    "cheap_series",
    "check_classifier",
    "dicom_radiograph",
    "jpeg_radiograph",
    "load_stub",
    "lung_field",
    "radiograph",
    "stub_bundle",
    "write_samples",
    "write_stub_plugin",
]
