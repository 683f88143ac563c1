"""What Dagster has recorded in a database of its own, for tests of who reads that. What is not here: assertions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg

from vision_assets.core.tenants import Tenant


@contextmanager
def recording(home: Path, url: str) -> Iterator[dg.DagsterInstance]:
    """Open an instance of Dagster that records in a database of its own."""
    own = urlsplit(url)._replace(scheme="postgresql+psycopg2").geturl()
    (home / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{own}'}}}}")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def record_materializations(home: Path, url: str, materialized: list[tuple[Tenant, str]]) -> None:
    """Let Dagster record materializations in a database of its own."""
    with recording(home, url) as instance:
        for tenant, asset in materialized:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=str(tenant.id)))
