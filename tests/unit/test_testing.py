import json
import os
import shutil
import subprocess
import sys
import time
from io import BytesIO

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import uid

from medd import testing
from medd.classify.classifier import load
from medd.errors import ModelUnusable
from medd.hookspecs import ClassifierSpec
from medd.plugins import load_plugins
from medd.testing import stub_plugin

# Radiographs


def test_radiograph_is_grey_in_unit_range():
    film = testing.radiograph(1, size=(300, 256))
    assert film.shape == (300, 256)
    assert film.dtype == np.float32
    assert film.min() >= 0
    assert film.max() <= 1
    assert film.std() > 0.15


def test_same_seed_gives_the_same_film():
    assert np.array_equal(testing.radiograph(5, size=256), testing.radiograph(5, size=256))


def test_different_seeds_give_different_children():
    films = [cv2.GaussianBlur(testing.radiograph(seed, size=128), (0, 0), 3) for seed in range(5)]
    apart = [np.abs(a - b).mean() for i, a in enumerate(films) for b in films[:i]]
    assert min(apart) > 0.01  # anatomy, for the blur took the noise away


@pytest.mark.parametrize("seed", range(12))
def test_opacity_raises_the_brightness_of_the_lungs_and_of_nothing_else(seed):
    clear, opaque = (testing.radiograph(seed, size=256, opacity=o) for o in (False, True))
    lungs = testing.lung_field(seed, size=256)
    around = cv2.dilate(lungs.astype(np.uint8), np.ones((25, 25))) == 0
    assert (opaque - clear)[lungs].mean() > 0.015
    assert np.abs(opaque - clear)[around].mean() < 0.2 * (opaque - clear)[lungs].mean()


def test_chest_has_dark_lungs_beside_a_bright_spine_on_a_dark_background():
    film = testing.radiograph(2, size=256)
    lungs = film[testing.lung_field(2, size=256)].mean()
    spine = film[100:140, 122:134].mean()
    assert film[:8, :8].mean() < 0.1 < lungs - 0.1 < spine - 0.3


def test_heart_lies_to_the_viewers_right():
    for seed in range(6):
        lungs = testing.lung_field(seed, size=256)
        assert lungs[:, :128].sum() > lungs[:, 128:].sum()


def test_sizes_show_the_same_child():
    small = testing.radiograph(3, size=128)
    shrunk = cv2.resize(testing.radiograph(3, size=768), (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(small - shrunk).mean() < 0.02


def test_impossible_size_is_refused():
    with pytest.raises(ValueError, match="Received: 4x100"):
        testing.radiograph(1, size=(4, 100))


# Files


@pytest.mark.parametrize("modality", ["DX", "CR"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_holds_the_film(tmp_path, modality, bits, photometric):
    path = tmp_path / "film.dcm"
    made = testing.dicom_radiograph(4, size=(130, 128), modality=modality, bits=bits, photometric=photometric)
    made.save_as(path, enforce_file_format=True)
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array.astype(np.float64) / (2**bits - 1)
    film = testing.radiograph(4, size=(130, 128))
    assert np.abs((1 - stored if photometric == "MONOCHROME1" else stored) - film).max() <= 0.51 / (2**bits - 1)
    assert (ds.Modality, ds.BodyPartExamined, ds.ViewPosition) == (modality, "CHEST", "AP")
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    assert str(ds.PatientName).startswith("SYNTHETIC^")


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_transfer_syntax_keeps_every_pixel(syntax, bits):
    made = testing.dicom_radiograph(4, size=64, bits=bits, transfer_syntax=syntax)
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    ds = pydicom.dcmread(BytesIO(stream.getvalue()))
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(ds.pixel_array, testing.dicom_radiograph(4, size=64, bits=bits).pixel_array)


def test_jpeg_baseline_says_that_it_is_lossy():
    ds = testing.dicom_radiograph(4, size=64, bits=8, transfer_syntax=uid.JPEGBaseline8Bit)
    plain = testing.dicom_radiograph(4, size=64, bits=8)
    assert np.abs(ds.pixel_array.astype(int) - plain.pixel_array).mean() < 4
    assert ds.LossyImageCompression == "01"
    with pytest.raises(ValueError, match="8 bits"):
        testing.dicom_radiograph(4, size=64, bits=12, transfer_syntax=uid.JPEGBaseline8Bit)


def test_uids_follow_from_the_arguments():
    first, again = (testing.dicom_radiograph(4, size=64) for _ in range(2))
    other = testing.dicom_radiograph(4, size=64, opacity=True)
    assert first == again
    assert first.StudyInstanceUID == other.StudyInstanceUID
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID != testing.dicom_radiograph(5, size=64).StudyInstanceUID


def test_attributes_are_set_and_removed_by_keyword():
    ds = testing.dicom_radiograph(4, size=64, StationName="ROOM 2", BodyPartExamined=None, SOPInstanceUID="1.2.3")
    assert ds.StationName == "ROOM 2"
    assert "BodyPartExamined" not in ds
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"


def test_samples_are_mixed_and_repeatable(tmp_path):
    paths = testing.write_samples(tmp_path / "a", 8, seed=20, size=64)
    again = testing.write_samples(tmp_path / "b", 8, seed=20, size=64)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    kinds = {tuple(p.stem.split("-")[1:]) for p in paths}
    assert kinds == {(lung, kind) for lung in ("clear", "opacity") for kind in ("dx16", "cr12", "film", "cr16")}
    assert cv2.imread(str(paths[2]), cv2.IMREAD_UNCHANGED).shape == (64, 64)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_cheap_series_is_distinct_and_readable(bits):
    objects = [pydicom.dcmread(BytesIO(b)) for b in testing.cheap_series(6, bits=bits, images_per_study=2)]
    assert len({ds.SOPInstanceUID for ds in objects}) == 6
    assert len({(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID) for ds in objects}) == 3
    assert len({ds.pixel_array.tobytes() for ds in objects}) == 6
    assert all(ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID for ds in objects)
    assert all(uid.UID(ds[k].value).is_valid for ds in objects for k in ("SOPInstanceUID", "StudyInstanceUID"))
    assert max(int(ds.pixel_array.max()) for ds in objects) < 2**bits
    assert all(len(ds.AccessionNumber) <= 16 for ds in objects)


def test_cheap_series_of_different_seeds_share_no_uid():
    (one,), (two,) = (testing.cheap_series(1, seed=seed, part10=False) for seed in (1, 2))
    one, two = (pydicom.dcmread(BytesIO(b), force=True) for b in (one, two))
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID != two.StudyInstanceUID


def test_cheap_series_is_quick():
    start = time.perf_counter()
    assert sum(1 for _ in testing.cheap_series(1000)) == 1000
    assert time.perf_counter() - start < 2


# Broken inputs


def test_every_bad_input_is_written_and_has_its_expectation(tmp_path):
    paths = testing.bad_inputs(tmp_path)
    assert list(paths) == list(testing.EXPECTED_REASONS)
    assert {p.name for p in tmp_path.iterdir()} == set(paths)
    testing.bad_inputs(tmp_path)  # again into the same folder


def test_sound_bad_inputs_are_read_by_pydicom(tmp_path):
    paths = testing.bad_inputs(tmp_path)
    unreadable = {"truncated_header.dcm", "truncated_pixels.dcm", "text.dcm", "zero_bytes.dcm", "folder.dcm"}
    for name in sorted(paths.keys() - unreadable - {"no_permission.dcm"}):
        if name.endswith(".dcm"):
            assert pydicom.dcmread(paths[name], force=True).PatientID == "SYN-0007", name
    assert pydicom.dcmread(paths["huge.dcm"]).Rows == 65535
    assert pydicom.dcmread(paths["float_pixels.dcm"]).pixel_array.dtype == np.float32
    assert pydicom.dcmread(paths["multi_frame.dcm"]).pixel_array.ndim == 3
    assert cv2.imread(str(paths["colour.jpg"])).std(axis=2).mean() > 30


# DCMTK's opinion


@pytest.fixture
def dcmtk():
    if not shutil.which("dcmdump"):
        if os.environ.get("MEDD_REQUIRE_PEERS") == "1":
            pytest.fail("MEDD_REQUIRE_PEERS=1, but DCMTK is not installed")
        pytest.skip("DCMTK is not installed")


@pytest.mark.peers
@pytest.mark.usefixtures("dcmtk")
def test_dcmdump_reads_what_the_kit_writes(tmp_path):
    paths = [p for p in testing.write_samples(tmp_path / "samples", 4, size=64) if p.suffix == ".dcm"]
    bad = testing.bad_inputs(tmp_path / "bad")
    paths += [bad[name] for name in ("report.dcm", "pdf.dcm", "presentation_state.dcm", "ct.dcm", "colour.dcm")]
    for i, data in enumerate(testing.cheap_series(2, rows=64, columns=64)):
        paths.append(tmp_path / f"cheap{i}.dcm")
        paths[-1].write_bytes(data)
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.DeflatedExplicitVRLittleEndian):
        paths.append(tmp_path / f"{syntax}.dcm")
        ds = testing.dicom_radiograph(1, size=64, transfer_syntax=syntax)
        ds.save_as(paths[-1], enforce_file_format=True)
    for path in paths:
        done = subprocess.run(["dcmdump", "-q", "+fo", path], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr


# The stub and the contract


def test_stub_holds_the_contract(tmp_path):
    for labels in (("NORMAL", "PNEUMONIA"), ("A", "B", "C")):
        folder = testing.stub_bundle(tmp_path / str(len(labels)), labels)
        assert testing.check_classifier(stub_plugin.spec(folder)).bundle.labels == labels


def test_stub_scores_by_brightness(tmp_path):
    model = load(testing.stub_bundle(tmp_path, size=8), [stub_plugin.spec()])
    scores = model.predict(np.stack([np.full((8, 8, 1), value, np.float32) for value in (0.2, 0.7)]))
    assert np.allclose(scores, [[0.8, 0.2], [0.3, 0.7]])
    assert [model.interpret(row, 1).label for row in scores] == ["NORMAL", "PNEUMONIA"]


def test_stub_bundle_is_repeatable(tmp_path):
    one, two = (testing.stub_bundle(tmp_path / name) / "bundle.json" for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert json.loads(one.read_text())["classifier"] == "stub"


def test_stub_plugin_file_is_found_in_the_plugins_dir(tmp_path):
    folder = testing.stub_bundle(tmp_path / "bundle")
    testing.write_stub_plugin(tmp_path / "plugins", folder)
    manager = load_plugins(tmp_path / "plugins")
    specs = [spec for found in manager.hook.register_classifiers() for spec in found]
    assert stub_plugin.spec(folder) in specs


class Drifting(testing.StubClassifier):
    """Scores an image by its batch's mean."""

    def predict(self, batch):
        return super().predict(np.broadcast_to(batch.mean(axis=0), batch.shape))


class Unsure(testing.StubClassifier):
    """Probabilities that sum to 2."""

    def predict(self, batch):
        return super().predict(batch) * 2


def load_drifting(folder, threads):
    return Drifting()


def load_unsure(folder, threads):
    return Unsure()


def test_contract_finds_a_score_that_depends_on_the_batch(tmp_path):
    folder = testing.stub_bundle(tmp_path)
    with pytest.raises(AssertionError, match="depends on its batch"):
        testing.check_classifier(ClassifierSpec("stub", load=f"{__name__}:load_drifting"), folder)


def test_contract_finds_what_is_no_distribution(tmp_path):
    folder = testing.stub_bundle(tmp_path)
    with pytest.raises(ModelUnusable, match="do not sum to 1"):
        testing.check_classifier(ClassifierSpec("stub", load=f"{__name__}:load_unsure"), folder)


def test_default_plugin_holds_the_contract():
    import medd_pneumonia

    for spec in medd_pneumonia.register_classifiers():
        if spec.bundle is None or not (spec.bundle / "bundle.json").exists():
            pytest.skip(f"{spec.name}: no trained bundle in this checkout")
        testing.check_classifier(spec)


def test_importing_the_kit_loads_no_network():
    code = "import sys, medd.testing; print([m for m in ('tensorflow', 'keras', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
