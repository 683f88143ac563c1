"""The samples of one scrape, by metric. What is not here: which metrics there are (`catalogue.py`), and any figure."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vision_assets.core.durations import Buckets
from vision_assets.service.catalogue import CATALOGUE, Described

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Sheet(Collector):
    """Takes samples of described metrics, and writes them down; each metric's labels are those it is described with."""

    def __init__(self) -> None:
        self._described = {described.name: described for described in CATALOGUE}
        self._families = {described.name: _family(described) for described in CATALOGUE}

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add a sample of a gauge or counter."""
        family = self._families[name]
        assert not isinstance(family, HistogramMetricFamily)  # noqa: S101 - narrows the type
        family.add_metric([labels[label] for label in self._described[name].labels], value)

    def add_histogram(self, name: str, counts: Mapping[str, int], *, buckets: Buckets, sum_seconds: float) -> None:
        """Add a histogram.

        Args:
            counts: In each bucket alone; one that is not named is empty.
        """
        family = self._families[name]
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101 - narrows the type
        up_to = accumulate(counts.get(label, 0) for label in buckets.labels)
        family.add_metric([], list(zip(buckets.labels, map(float, up_to), strict=True)), sum_seconds)

    def collect(self) -> Iterable[Metric]:
        """Give the metrics that have samples."""
        return self._filled()

    def text(self) -> bytes:
        """Write all down in Prometheus' text format."""
        return generate_latest(self)

    def _filled(self) -> Iterator[Metric]:
        return (family for family in self._families.values() if family.samples)


def _family(described: Described) -> Family:
    match described.kind:
        case "gauge":
            return GaugeMetricFamily(described.name, described.meaning, labels=described.labels)
        case "counter":
            return CounterMetricFamily(described.name, described.meaning, labels=described.labels)
        case "histogram":
            return HistogramMetricFamily(described.name, described.meaning)
