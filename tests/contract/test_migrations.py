"""The schema that migrations build is the schema that the program is written for."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from medd.errors import SchemaOutOfDate, SettingsError
from medd.store.database import SCHEMA, Database, check_schema, current_schema, upgrade
from medd.store.repository import record_predictions
from medd.store.tables import RESULTS_VIEW, annotation, instance, metadata, results, study
from medd.store.tally import refresh
from tests.rows import EPOCH, instance_row, prediction_of


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def describe(database: Database) -> dict:
    """What the database itself says of its schema: Alembic's comparison sees neither CHECK nor default."""
    with database.read() as connection:
        inspector = sa.inspect(connection)
        return {
            table: (
                sorted((c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)),
                sorted((c["name"], c["sqltext"]) for c in inspector.get_check_constraints(table)),
                sorted((c["name"], tuple(c["column_names"])) for c in inspector.get_unique_constraints(table)),
                sorted((c["name"], c["options"].get("ondelete")) for c in inspector.get_foreign_keys(table)),
                sorted(
                    (i["name"], tuple(i["column_names"]), bool(i["unique"]), _where(i))
                    for i in inspector.get_indexes(table)
                ),
            )
            for table in sorted(inspector.get_table_names())
            if table != "alembic_version"
        } | {"views": sorted(inspector.get_view_names())}


def _where(index: dict) -> str:
    options = index.get("dialect_options", {})
    return str(options.get("sqlite_where", options.get("postgresql_where", "")))


def write(database: Database, sql: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(sql))


def test_migrations_build_what_the_tables_say(empty):
    check_schema(empty)
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrated = describe(empty)
    with empty.write() as connection:
        connection.execute(sa.text("DROP VIEW results"))
        metadata.drop_all(connection)
        metadata.create_all(connection)
        connection.execute(sa.text(RESULTS_VIEW))
    assert migrated == describe(empty)
    assert migrated["views"] == ["results"]


def test_view_has_the_columns_that_results_shows(empty):
    check_schema(empty)
    with empty.read() as connection:
        columns = [column["name"] for column in sa.inspect(connection).get_columns("results")]
    assert columns == [column.name for column in results.columns]


def test_migrated_view_is_the_view_of_the_tables(empty):
    check_schema(empty)
    definition = "SELECT sql FROM sqlite_master WHERE name = 'results'"
    if not empty.is_sqlite:
        definition = "SELECT pg_get_viewdef('results')"
    with empty.read() as connection:
        migrated = connection.scalar(sa.text(definition))
    write(empty, "DROP VIEW results")
    write(empty, RESULTS_VIEW)
    with empty.read() as connection:
        assert connection.scalar(sa.text(definition)) == migrated


def upgrade_to(database: Database, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    from medd.store.database import migrations_dir

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    config.attributes["engine"] = database.engine
    command.upgrade(config, revision)


def test_database_of_the_first_schema_keeps_its_rows_and_gets_the_same_schema_as_a_new_one(empty):
    upgrade_to(empty, "0001")
    at = "'2026-01-01T12:00:00.000000Z'"
    write(
        empty,
        "INSERT INTO instance (id, sha256, size, media_type, origin, received_at, status, reason, patient_id) VALUES"
        f" (1, 'aa', 10, 'application/dicom', 'dicom://CR1@10.0.0.1', {at}, 'scored', NULL, 'P1'),"
        f" (2, 'bb', 20, 'image/jpeg', 'file:b.jpg', {at}, 'not_assessed', 'not_chest', '')",
    )
    write(empty, "INSERT INTO job (kind, instance_id, state) VALUES ('classify', 1, 'done')")
    write(
        empty,
        "INSERT INTO model_version (id, name, version, classifier, digest, path, role, created_at) VALUES"
        f" (1, 'paper', '1', 'paper', 'd1', '/m/1', 'retired', {at}),"
        f" (2, 'paper', '2', 'paper', 'd2', '/m/2', 'champion', {at})",
    )
    write(
        empty,
        "INSERT INTO prediction (instance_id, model, label, positive, probability, probabilities, threshold,"
        " preprocess_digest, scored_at, current) VALUES"
        f""" (1, 'paper/1', 'NORMAL', {"0" if empty.is_sqlite else "false"}, 0.25, '{{"NORMAL": 0.75}}', 0.5, 'x', {at},
        {"1" if empty.is_sqlite else "true"})""",
    )
    upgrade(empty)
    check_schema(empty)
    with empty.read() as connection:
        rows = {row.instance_id: row for row in connection.execute(results.select())}
        stations = connection.execute(sa.text("SELECT manufacturer, station_name, patient_age FROM instance")).all()
        models = connection.execute(sa.text("SELECT id, version, role, path FROM model_version ORDER BY id")).all()
        shadows = connection.execute(sa.text("SELECT shadow, input_mean, findings FROM prediction")).all()
    assert (rows[1].patient_id, rows[1].model, rows[1].probability, rows[1].flags) == ("P1", "paper/1", 0.25, [])
    assert (rows[2].reason, rows[2].model, rows[2].flags) == ("not_chest", None, None)
    assert set(stations) == {("", "", "")}
    assert [tuple(row) for row in models] == [(1, "1", "retired", "/m/1"), (2, "2", "champion", "/m/2")]
    assert [(bool(shadow), mean, findings) for shadow, mean, findings in shadows] in (
        [(False, None, "[]")],
        [(False, None, [])],
    )
    write(empty, "UPDATE model_version SET role = 'candidate' WHERE id = 1")
    upgraded = describe(empty)
    write(empty, "DROP VIEW results")
    with empty.write() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
        connection.execute(sa.text(RESULTS_VIEW))
    assert upgraded == describe(empty)


def test_database_of_before_the_worklist_is_given_its_studies(empty):
    upgrade_to(empty, "0003")
    rows = [
        (1, "s1", "a1", 0, "scored", None),
        (2, "s1", "a1", 1, "scored", None),
        (3, "s1", "a1", 2, "not_assessed", "lateral_view"),
        (4, "", "", 3, "pending", None),
        (5, "", "", 4, "not_assessed", "unreadable"),
        (6, "s2", "a2", 5, "not_assessed", "lateral_view"),
        (7, "s2", "a2", 6, "failed", "retries_exhausted"),
        (8, "s3", "a3", 7, "scored", None),
    ]
    with empty.write() as connection:
        for id_, uid, accession, second, status, reason in rows:
            values = {"study_instance_uid": uid, "accession_number": accession, "status": status, "reason": reason}
            row = instance_row(second, id=id_, patient_id=f"P{id_}", **values)
            connection.execute(instance.insert().values(row))
        record_predictions(connection, [prediction_of(1, 0.2), prediction_of(2, 0.9), prediction_of(8, 0.6)])
        for id_, label, second in ((1, "NORMAL", 1), (8, "NORMAL", 9), (8, "PNEUMONIA", 8)):
            at = EPOCH + timedelta(seconds=second)
            connection.execute(annotation.insert().values(instance_id=id_, label=label, reader=f"at {second}", at=at))
    upgrade(empty)

    def stored() -> list[dict]:
        with empty.read() as connection:
            found = connection.execute(sa.select(study).order_by(study.c.instance_id)).mappings()
            return [{name: row[name] for name in row if name != "changed_at"} for row in found]

    filled = stored()
    assert [(row["images"], row["status"], row["reason"], row["patient_id"], row["read_by"]) for row in filled] == [
        (3, "scored", None, "P2", None),  # what was said of it was said before the last image came
        (1, "pending", None, "P4", None),
        (1, "not_assessed", "unreadable", "P5", None),
        (2, "failed", "retries_exhausted", "P6", None),
        (1, "scored", None, "P8", "at 8"),
    ]
    assert filled[4]["read_at"] == EPOCH + timedelta(seconds=8)
    with empty.write() as connection:
        refresh(connection, None)
    assert stored() == filled


def test_views_of_the_users_own_outlive_the_migration(empty):
    upgrade_to(empty, "0001")
    write(empty, "CREATE VIEW mine AS SELECT instance_id, label FROM results")
    write(empty, "CREATE VIEW known AS SELECT version FROM model_version")
    upgrade(empty)
    with empty.read() as connection:
        for view in ("mine", "known"):
            assert connection.execute(sa.text(f"SELECT * FROM {view}")).all() == []


def test_schema_number_of_the_program_is_the_last_migration():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from medd.store.database import migrations_dir

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_empty_database_is_given_its_schema(empty):
    assert current_schema(empty) is None
    check_schema(empty)
    assert current_schema(empty) == SCHEMA
    check_schema(empty)
    upgrade(empty)


def test_schema_that_is_too_old_names_the_command_that_mends_it(empty):
    check_schema(empty)
    write(empty, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaOutOfDate, match=r"Run `medd db upgrade`\. Received: schema 0000"):
        check_schema(empty)


def test_schema_that_is_too_new_is_refused_and_left_alone(empty):
    check_schema(empty)
    write(empty, "UPDATE alembic_version SET version_num = '9999'")
    for refusing in (check_schema, upgrade):
        with pytest.raises(SchemaOutOfDate, match=r"install a newer medd\. Received: schema 9999"):
            refusing(empty)
    assert current_schema(empty) == "9999"


def test_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "medd.db"
    path.write_bytes(b"The quick brown fox jumps over the lazy dog.\n" * 200)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(SettingsError, match="file is not a database"):
        check_schema(database)
    database.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/medd", "sqlite or postgresql expected"),
        ("medd.db", "not a database URL"),
        ("oracle://host/medd", "sqlite or postgresql expected"),
    ],
)
def test_url_of_no_known_database_is_refused(url, message):
    with pytest.raises(SettingsError, match=message):
        Database(url)
