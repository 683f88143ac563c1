"""Dagster's storage with kept connections, on a real Postgres."""

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg2
import pytest
import yaml
from dagster._serdes import ConfigurableClassData

from vision_assets.dagster_storage import KeptPostgresStorage, kept_engine
from vision_assets.settings import PROJECT_ROOT

ENDED = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture
def storage(bare_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeptPostgresStorage]:
    """The storage as `dagster.yaml` has it, on an empty database."""
    url = urlsplit(bare_database)._replace(scheme="postgresql+psycopg2").geturl()
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    custom = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["storage"]["custom"]
    data = ConfigurableClassData(custom["module"], custom["class"], yaml.dump(custom["config"]))
    yield data.rehydrate(as_type=KeptPostgresStorage)
    kept_engine(url).dispose()


def end_connections(url: str) -> int:
    """End all connections of the database but this one, as a restart does; tells how many there were."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(ENDED)
        return int(cursor.fetchone()[0])


def test_one_connection_is_kept_and_renewed(storage: KeptPostgresStorage, bare_database: str) -> None:
    """What all instances of a process ask goes over one connection; when the server ends it, another is opened."""
    other = KeptPostgresStorage(storage.postgres_url)  # a code server makes one for each request
    end_connections(bare_database)
    for _ in range(2):
        storage.event_log_storage.add_dynamic_partitions("tenants", ["a", "b"])
        assert other.event_log_storage.get_dynamic_partitions("tenants") == ["a", "b"]
        assert storage.run_storage.get_runs_count() == 0
        assert list(other.schedule_storage.all_instigator_state()) == []
        assert end_connections(bare_database) == 1
