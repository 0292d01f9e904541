import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from medd.errors import SettingsError
from medd.learn import manifest
from medd.learn.manifest import Sample
from medd.registry.bundle import file_digest
from medd.testing.films import dicom_radiograph

CHEST = Path(__file__).parents[3] / "../shared/data/chest_xray/train"


def sides_of_patients(samples: list[Sample]) -> dict[str, set[str]]:
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        sides[sample.patient].add(sample.split)
    return sides


def crowd(count: int, label: str, per_patient: int = 1) -> list[Sample]:
    return [Sample(Path(f"{label}{n}"), label, f"{label}-{n // per_patient}", f"{label}{n:064}") for n in range(count)]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person1000_bacteria_2931.jpeg", "person1000"),
        ("person1000_virus_1681.jpeg", "person1000"),
        ("person447_virus_921_1.jpeg", "person447"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0123-0001.jpeg", "NORMAL2-IM-0123"),
        ("NORMAL2-IM-0395-0001-0002.jpeg", "NORMAL2-IM-0395"),
        ("00000012_003.png", "00000012"),
        ("20260131_003.png", ""),
        ("00000012_0034.png", ""),
        ("someone.jpeg", ""),
    ],
)
def test_a_file_name_tells_the_patient(name, patient):
    assert manifest.patient_in_name(Path(name).stem) == patient


def test_a_dicom_file_tells_its_patient(tmp_path):
    dataset = dicom_radiograph(1, size=128)
    dataset.PatientID = "4711 "
    (tmp_path / "NORMAL").mkdir()
    dataset.save_as(tmp_path / "NORMAL" / "IM-0001-0001.dcm", enforce_file_format=True)
    [sample], _ = manifest.read(tmp_path, least_labels=1)
    assert sample.patient == "4711"


def test_every_name_of_a_patient_is_kept(tmp_path, draw):
    dataset = dicom_radiograph(1, size=128)
    dataset.PatientID = "4711"
    dataset.save_as(tmp_path / "IM-0001-0001.dcm", enforce_file_format=True)
    draw(tmp_path / "other.png", 1)
    shutil.copy(draw(tmp_path / "one.png", 2), tmp_path / "two.png")
    rows = ["IM-0001-0001.dcm,NORMAL,anna", "other.png,SICK,ben", "one.png,SICK,ben", "two.png,SICK,carl"]
    (tmp_path / "data.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")
    samples, _ = manifest.read(tmp_path / "data.csv")
    assert {s.path.stem: (s.patient, set(s.aliases)) for s in samples} == {
        "IM-0001-0001": ("anna", {"4711", "IM-0001"}),
        "other": ("ben", set()),
        "one": ("ben", set()),
        "two": ("ben", {"carl"}),
    }


def test_folders_are_labels(two_labels):
    samples, skipped = manifest.read(two_labels)
    assert Counter(s.label for s in samples) == {"NORMAL": 13, "PNEUMONIA": 12}
    assert not skipped
    assert {s.split for s in samples} == {""}


def test_links_relabel_a_folder(tmp_path, three_labels):
    for label, source in (("NORMAL", "NORMAL"), ("SICK", "VIRUS"), ("SICK", "BACTERIA")):
        for path in (three_labels / source).iterdir():
            link = tmp_path / label / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)
    samples, _ = manifest.read(tmp_path)
    assert Counter(s.label for s in samples) == {"NORMAL": 6, "SICK": 12}


def test_no_patient_is_on_two_sides():
    samples = manifest.divide(crowd(300, "NORMAL", 2) + crowd(900, "PNEUMONIA", 3), seed=1)
    assert all(len(sides) == 1 for sides in sides_of_patients(samples).values())


def test_each_label_is_divided_70_15_15():
    samples = manifest.divide(crowd(300, "NORMAL", 2) + crowd(900, "PNEUMONIA", 3), seed=1)
    found = Counter((s.label, s.split) for s in samples)
    for label, count in (("NORMAL", 300), ("PNEUMONIA", 900)):
        for side, share in manifest.SHARES.items():
            assert found[label, side] == pytest.approx(share * count, abs=3)


def test_the_seed_decides_the_split():
    samples = crowd(100, "A") + crowd(100, "B")
    digests = [manifest.digest(manifest.divide(samples, seed)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_does_not_depend_on_where_the_data_lie(tmp_path, two_labels):
    shutil.copytree(two_labels, tmp_path / "copy")
    here, there = (manifest.divide(manifest.read(data)[0], 3) for data in (two_labels, tmp_path / "copy"))
    assert manifest.digest(here) == manifest.digest(there)


def test_identical_copies_stay_on_one_side(tmp_path, draw):
    for number in range(40):
        draw(tmp_path / "A" / f"a{number}.png", number)
        draw(tmp_path / "B" / f"b{number}.png", 100 + number)
        shutil.copy(tmp_path / "A" / f"a{number}.png", tmp_path / "A" / f"copy{number % 39}-{number}.png")
    samples = manifest.divide(manifest.read(tmp_path)[0], 0)
    sides = defaultdict(set)
    for sample in samples:
        sides[sample.sha256].add(sample.split)
    assert len(samples) == 120
    assert all(len(found) == 1 for found in sides.values())


def test_patients_joined_by_a_chain_of_copies_are_one():
    chain = [("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3")]
    samples = manifest._unite([Sample(Path(f"{n}"), "L", who, sha) for n, (who, sha) in enumerate(chain)])
    assert [s.patient for s in samples] == ["a", "a", "a", "a", "d"]


def test_patients_of_whom_one_is_called_by_the_others_name_are_one():
    told = [("anna", {"P1"}), ("P1", ()), ("ben", {"ANON", "P2"}), ("carl", {"ANON"}), ("ANON", ()), ("P2", {"P3"})]
    samples = [Sample(Path(f"{n}"), "L", who, f"{n}", "", frozenset(other)) for n, (who, other) in enumerate(told)]
    assert [s.patient for s in manifest._unite(samples)] == ["P1", "P1", "P2", "carl", "ANON", "P2"]


def test_images_that_do_not_say_whose_they_are_are_counted(tmp_path, draw):
    for name in ("a.png", "b.png", "IM-0001-0001.png"):
        draw(tmp_path / "A" / name, len(name))
    draw(tmp_path / "c.png", 3)
    draw(tmp_path / "d.png", 4)
    (tmp_path / "data.csv").write_text(
        "path,label,patient\nA/a.png,A,\nA/IM-0001-0001.png,A,\nc.png,B,P1\nd.png,B,P1\n"
    )
    samples, _ = manifest.read(tmp_path / "data.csv")
    assert manifest.unnamed(samples).startswith("1 of 4 images do not say whose they are")
    assert manifest.unnamed([s for s in samples if s.label == "B"]) == ""


def test_a_file_that_may_not_be_read_is_skipped(two_labels, monkeypatch):
    def refuse(path: Path) -> str:
        if path.name.startswith("person0"):
            raise PermissionError(13, "Permission denied")
        return file_digest(path)

    monkeypatch.setattr(manifest, "file_digest", refuse)
    samples, skipped = manifest.read(two_labels)
    assert len(samples) == 23
    assert [(file.path.name, file.why) for file in skipped] == [
        ("person0_bacteria_0.png", "Permission denied"),
        ("person0_bacteria_1.png", "Permission denied"),
    ]


def test_the_same_image_under_two_labels_is_skipped(tmp_path, draw):
    for number in range(3):
        draw(tmp_path / "A" / f"a{number}.png", number)
        draw(tmp_path / "B" / f"b{number}.png", 10 + number)
    shutil.copy(tmp_path / "A" / "a0.png", tmp_path / "B" / "other.png")
    samples, skipped = manifest.read(tmp_path)
    assert sorted(s.path.name for s in skipped) == ["a0.png", "other.png"]
    assert len(samples) == 5


def test_stated_sides_stand_and_a_missing_one_is_taken_from_train(tmp_path, draw):
    for side, count in (("train", 20), ("test", 4)):
        for number in range(count):
            draw(tmp_path / side / "A" / f"{number}.png", 1000 * len(side) + number)
            draw(tmp_path / side / "B" / f"{number}.png", 10_000 + 1000 * len(side) + number, 0.6)
    samples = manifest.divide(manifest.read(tmp_path)[0], 0)
    assert all((s.split == "test") == (s.path.parts[-3] == "test") for s in samples)
    assert Counter(s.split for s in samples)["val"] > 0


def test_a_table_gives_patients_and_sides(tmp_path, draw):
    lines = ["path,label,patient,split"]
    for number in range(6):
        draw(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,{'AB'[number % 2]},P{number},{('train', 'val', 'test')[number // 2]}")
    table = tmp_path / "data.csv"
    table.write_text("\n".join(lines))
    samples = manifest.divide(manifest.read(table)[0], 0)
    assert [(s.patient, s.split) for s in samples][:3] == [("P0", "train"), ("P1", "train"), ("P2", "val")]


@pytest.mark.parametrize("sides", [("train", "test"), ("val", "test")])
def test_a_patient_on_two_sides_is_an_error(sides):
    samples = manifest.divide(crowd(20, "A") + crowd(20, "B"), 0)
    mixed = [Sample(Path("x"), "A", "X", "1", sides[0]), Sample(Path("y"), "A", "X", "2", sides[1])]
    with pytest.raises(SettingsError, match="two sides"):
        manifest.divide([*samples, *mixed], 0)


@pytest.mark.parametrize(
    "text",
    [
        b"file,label\n",
        b"path,label\nmissing.png,A\n",
        b"path,label,split\nx.png,A,dev\n",
        b"path,label\nx.png, \n",
        b"path,label\nx.png,\xc4\n",
        b"path,label\n" + b"x" * 300 + b",A\n",
        b"path,label\nx.png," + b"A" * 140_000,
    ],
)
def test_a_wrong_table_is_an_error(tmp_path, draw, text):
    draw(tmp_path / "x.png", 1)
    (tmp_path / "data.csv").write_bytes(text)
    with pytest.raises(SettingsError, match="Received"):
        manifest.read(tmp_path / "data.csv")


def test_a_label_without_images_is_an_error(tmp_path, draw):
    draw(tmp_path / "A" / "a.png", 1)
    (tmp_path / "B").mkdir()
    with pytest.raises(SettingsError, match="without images"):
        manifest.read(tmp_path)


def test_one_label_is_an_error(tmp_path, draw):
    draw(tmp_path / "A" / "a.png", 1)
    with pytest.raises(SettingsError, match="two labels"):
        manifest.read(tmp_path)


def test_too_few_patients_for_three_sides_are_an_error():
    with pytest.raises(SettingsError, match="at least three patients"):
        manifest.divide(crowd(20, "A") + crowd(2, "B"), 0)


def test_no_data_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="DATA"):
        manifest.read(tmp_path / "nowhere")


def test_the_written_split_names_nobody(tmp_path):
    samples = [Sample(Path("Smith^John.dcm"), "A", "Smith", "ab" * 32, "val")]
    manifest.write(tmp_path / "split.csv", samples)
    assert (tmp_path / "split.csv").read_text() == "sha256,label,patient,split\nabababababababab,A,0,val\n"


@pytest.mark.data
@pytest.mark.skipif(not CHEST.is_dir(), reason="needs ../shared/data/chest_xray")
def test_the_chest_films_are_divided_by_patient():
    samples, skipped = manifest.read(CHEST)
    samples = manifest.divide(samples, 0)
    assert not skipped
    assert Counter(s.label for s in samples) == {"NORMAL": 1341, "PNEUMONIA": 3875}
    assert all(len(sides) == 1 for sides in sides_of_patients(samples).values())
    assert {"IM-0115", "NORMAL2-IM-0385"} <= {s.patient for s in samples}
