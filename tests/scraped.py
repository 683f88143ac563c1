"""What a scrape tells, and the metrics that a query names. What is not here: assertions."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.quota import StorageLimits
from vision_assets.service.exporter import Exporter


@dataclass(frozen=True, slots=True)
class Scraped:
    """One scrape.

    Attributes:
        samples: Values by the sample's name and its labels, in the order of their names.
    """

    samples: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    @classmethod
    def parse(cls, text: str) -> "Scraped":
        """Read Prometheus' text format."""
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        scraped = cls({(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples})
        assert len(scraped.samples) == len(samples), "a sample is there twice"
        return scraped

    def value(self, name: str, **labels: str) -> float | None:
        """Look up a sample; None: there is none."""
        return self.samples.get((name, tuple(sorted(labels.items()))))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Give the values of a metric's samples that have these labels, by another label."""
        return {
            dict(found)[label]: value
            for (sample, found), value in self.samples.items()
            if sample == name and labels.items() <= dict(found).items()
        }

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self.samples}


@asynccontextmanager
async def open_exporter(
    database_url: str,
    *,
    dagster_url: str | None = None,
    tenants_shown: int = 10,
    storage: StorageLimits = ROOMY,
    budget: BudgetLimits | None = None,
    kept_seconds: float = 0,
) -> AsyncIterator[Exporter]:
    """Open an exporter on a database; Dagster's tables lie there, too, unless said otherwise."""
    async with (
        Database.open(database_url, max_size=3, brief=True) as database,
        Database.open(dagster_url or database_url, max_size=1, brief=True) as dagster,
    ):
        yield Exporter(database, dagster, storage, budget or BudgetLimits(), tenants_shown, kept_seconds)


async def scrape(exporter: Exporter) -> Scraped:
    """Scrape an exporter."""
    return Scraped.parse((await exporter.scrape()).decode())


def metric_names(query: str) -> set[str]:
    """List the metrics that a PromQL query reads."""
    names: set[str] = set()

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a metric's name in {query}"
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(query), look)
    return names
