"""A model's files are data: loading a bundle executes nothing that they hold."""

import pickle
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from medd.classify.classifier import load
from medd.errors import ModelUnusable, PluginError
from medd.hookspecs import ClassifierSpec
from medd.imaging.preprocess import PreprocessSpec
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from tests.support import ROOT

SPECS = [ClassifierSpec("standard")]


class Bomb:
    """Whoever unpickles it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self._path,)


def bundle_of(folder: Path, files: dict[str, bytes], classifier: str = "standard") -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    described = Bundle(
        name="evil",
        version="1",
        classifier=classifier,
        labels=("A", "B"),
        positive_labels=("B",),
        threshold=0.5,
        preprocess=PreprocessSpec.model_validate({"size": 8, "channels": 1}),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        files={},
    )
    bundles.write(folder, described)
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "model.pkl", "weights.npy", "model.keras", "calibration.joblib"])
def test_a_pickle_in_a_bundle_is_never_opened(tmp_path, name):
    sign = tmp_path / "executed"
    content = pickle.dumps(Bomb(sign))
    if name.endswith(".npy"):
        np.save(tmp_path / "x.npy", np.array([Bomb(sign)], object), allow_pickle=True)
        content = (tmp_path / "x.npy").read_bytes()
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": b"no network", name: content})
    with pytest.raises(ModelUnusable, match="not a network"):
        load(folder, SPECS)
    assert not sign.exists()


def test_code_in_a_bundle_is_not_imported(tmp_path):
    sign = tmp_path / "executed"
    evil = f"from pathlib import Path\nPath({str(sign)!r}).touch()\n".encode()
    names = ("__init__.py", "model.py", "sitecustomize.py", "numpy.py", "conftest.py", "medd_plugin.py")
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": b"no network", **dict.fromkeys(names, evil)})
    with pytest.raises(ModelUnusable):
        load(folder, SPECS)
    assert not sign.exists()
    assert str(folder) not in sys.path


def test_a_bundle_cannot_say_by_which_code_it_is_loaded(tmp_path):
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": b""}, classifier="os:system")
    with pytest.raises(PluginError, match="no plugin brings"):
        load(folder, SPECS)


def test_a_file_name_that_leads_out_of_the_bundle_is_refused(tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": b"no network"})
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"model.onnx"', '"../outside"'))
    with pytest.raises(ModelUnusable, match="leads out"):
        load(folder, SPECS)


@pytest.mark.train
def test_a_graph_with_operators_of_somebody_elses_library_is_refused(tmp_path):
    """ONNX Runtime runs custom operators from a shared library that the program names; medd never names one."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Run", ["x"], ["y"], domain="evil.example")
    shape = ["N", 8, 8, 1]
    wires = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "evil", [wires[0]], [wires[1]])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("evil.example", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": model.SerializeToString()})
    with pytest.raises(ModelUnusable, match="not a network"):
        load(folder, SPECS)


@pytest.mark.train
def test_weights_outside_of_the_bundle_are_not_read(tmp_path):
    """External data of a graph (onnx.TensorProto.external_data) may name any file."""
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret").write_bytes(np.ones(64, np.float32).tobytes())
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[8, 8])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8, 8]) for name in ("x", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "evil", [x], [y], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    folder = bundle_of(tmp_path / "bundle", {"model.onnx": model.SerializeToString()})
    with pytest.raises(ModelUnusable, match="not a network"):
        load(folder, SPECS)


def test_no_module_reads_what_can_hold_code():
    """Neither pickle nor Keras's loader, which runs Lambda layers, is used on any file; np.load allows no pickle."""
    loaders = re.compile(
        r"\b(pickle|joblib|dill|cloudpickle|torch)\.loads?\b|load_model\(.*\.keras|models\.load_model|"
        r"allow_pickle\s*=\s*True|safe_mode\s*=\s*False|register_custom_ops_library|yaml\.load\(|\beval\(|\bexec\("
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("medd", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        # What Ray's actors hand each other, as Ray itself does; it is in no file.
        if path != ROOT / "medd" / "backfill" / "actors.py"
        for line in path.read_text().splitlines()
        if loaders.search(line)
    ]
    assert found == []
