"""Translation between the stock Qdrant client's REST models and the embedded engine's own types.

Whatever a request asks for that is not translated here is refused by name (`Unsupported`), never dropped silently.
What does not belong here: state, files, HTTP.
"""

from collections.abc import Iterable
from datetime import date
from typing import Any
from uuid import UUID

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client.http import models as rest


class Unsupported(Exception):
    """The real server could do this; the embedded one does not."""


class Invalid(Exception):
    """The real server would refuse this too."""


def _only(model: BaseModel, *supported: str) -> None:
    """Refuse a model in which anything else than the supported fields is set."""
    for field in model.model_fields_set - set(supported):
        if getattr(model, field) not in (None, [], {}):
            raise Unsupported(f"{type(model).__name__}.{field}")


# --- collections -----------------------------------------------------------------------------------------------------


def _dense(params: rest.VectorParams) -> edge.EdgeVectorParams:
    _only(params, "size", "distance", "on_disk")
    return edge.EdgeVectorParams(params.size, getattr(edge.Distance, params.distance.value), on_disk=params.on_disk)


def _sparse(params: rest.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    if params.index:
        _only(params.index, "full_scan_threshold", "on_disk")
    return edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf if params.modifier == rest.Modifier.IDF else None)


def edge_config(config: rest.CreateCollection) -> edge.EdgeConfig:
    """Translate the vectors of a new collection; sizes for a cluster (shards, replicas) have no meaning here."""
    _only(
        config,
        *("vectors", "sparse_vectors", "on_disk_payload", "metadata"),
        *("shard_number", "replication_factor", "write_consistency_factor"),
        *("hnsw_config", "optimizers_config", "wal_config"),  # without the optimizer they change nothing
    )
    vectors = config.vectors if isinstance(config.vectors, dict) else {"": config.vectors} if config.vectors else {}
    return edge.EdgeConfig(
        vectors={name: _dense(params) for name, params in vectors.items()},
        sparse_vectors={name: _sparse(params) for name, params in (config.sparse_vectors or {}).items()},
        on_disk_payload=config.on_disk_payload,
    )


def collection_info(
    config: rest.CreateCollection, indexes: dict[str, rest.CreateFieldIndex], info: "edge.ShardInfo"
) -> rest.CollectionInfo:
    """Describe a collection in the server's words; figures that the engine does not have are the server's defaults."""
    points = {field: index.points for field, index in info.payload_schema.items()}
    return rest.CollectionInfo(
        status=rest.CollectionStatus.GREEN,
        optimizer_status=rest.OptimizersStatusOneOf.OK,
        indexed_vectors_count=info.indexed_vectors_count,
        points_count=info.points_count,
        segments_count=info.segments_count,
        config=rest.CollectionConfig(
            params=rest.CollectionParams(vectors=config.vectors, sparse_vectors=config.sparse_vectors),
            hnsw_config=rest.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=rest.OptimizersConfig(default_segment_number=1, flush_interval_sec=5),
            metadata=config.metadata,
        ),
        payload_schema={
            field: rest.PayloadIndexInfo(
                data_type=_schema_type(index), params=_schema_params(index), points=points.get(field, 0)
            )
            for field, index in indexes.items()
        },
    )


def _schema_type(index: rest.CreateFieldIndex) -> rest.PayloadSchemaType:
    if index.field_schema is None:
        raise Invalid("a payload index needs a field_schema")
    params = _schema_params(index)
    return rest.PayloadSchemaType(index.field_schema if params is None else params.type.value)


def _schema_params(index: rest.CreateFieldIndex) -> rest.PayloadSchemaParams | None:
    return None if isinstance(index.field_schema, rest.PayloadSchemaType | None) else index.field_schema


def create_index(request: rest.CreateFieldIndex) -> edge.UpdateOperation:
    """Translate a payload index; the two libraries name the parameters alike."""
    schema = getattr(edge.PayloadSchemaType, _schema_type(request).value.capitalize())
    params = _schema_params(request)
    if params is not None:
        _only(params, "type", "is_tenant", "is_principal", "lookup", "range", "on_disk", "enable_hnsw", "prefix")
        options = params.model_dump(exclude={"type"}, exclude_none=True)
        schema = getattr(edge, type(params).__name__)(**options)
    return edge.UpdateOperation.create_field_index(request.field_name, schema)


# --- points ----------------------------------------------------------------------------------------------------------


def point_id(value: int | str | UUID) -> int | UUID:
    """Translate an id: an unsigned integer or a UUID, as on the server."""
    if isinstance(value, int) and value >= 0:
        return value
    try:
        return UUID(str(value))
    except ValueError:
        raise Invalid(f"value {value!r} is not a valid point ID, use an unsigned integer or a UUID") from None


def _vector(value: Any) -> Any:
    match value:
        case rest.SparseVector():
            return edge.SparseVector(value.indices, value.values)
        case list():
            return value
    raise Unsupported(type(value).__name__)


def _vectors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _vector(vector) for name, vector in value.items()}
    return _vector(value)


def _structs(body: rest.PointsList | rest.PointsBatch) -> Iterable[tuple[Any, Any, Any]]:
    if isinstance(body, rest.PointsList):
        return ((point.id, point.vector, point.payload) for point in body.points)
    batch = body.batch
    payloads: list[Any] = batch.payloads or [None] * len(batch.ids)
    if isinstance(batch.vectors, dict):
        names = list(batch.vectors)
        rows = zip(*batch.vectors.values(), strict=True)
        return zip(batch.ids, (dict(zip(names, row, strict=True)) for row in rows), payloads, strict=True)
    return zip(batch.ids, batch.vectors, payloads, strict=True)


def upsert(body: rest.PointsList | rest.PointsBatch) -> edge.UpdateOperation:
    """Translate an upsert, in either of the client's two forms."""
    _only(body, "points", "batch", "update_filter")
    points = [edge.Point(point_id(key), _vectors(vector), payload) for key, vector, payload in _structs(body)]
    return edge.UpdateOperation.upsert_points(points, condition=filter_or_none(body.update_filter))


def delete(body: rest.PointIdsList | rest.FilterSelector) -> edge.UpdateOperation:
    """Translate a deletion by ids or by filter."""
    _only(body, "points", "filter")
    if isinstance(body, rest.PointIdsList):
        return edge.UpdateOperation.delete_points([point_id(key) for key in body.points])
    return edge.UpdateOperation.delete_points_by_filter(filter_(body.filter))


def _out(value: Any) -> Any:
    match value:
        case dict():
            return {name: _out(vector) for name, vector in value.items()}
        case edge.SparseVector():
            return rest.SparseVector(indices=value.indices, values=value.values)
    return value


def record(point: edge.Record) -> rest.Record:
    """Translate a stored point."""
    return rest.Record(
        id=point.id if isinstance(point.id, int) else str(point.id),
        payload=point.payload,
        vector=_out(point.vector),
        order_value=point.order_value,
    )


def scored(point: edge.ScoredPoint) -> rest.ScoredPoint:
    """Translate a found point."""
    return rest.ScoredPoint(
        id=point.id if isinstance(point.id, int) else str(point.id),
        version=point.version,
        score=point.score,
        payload=point.payload,
        vector=_out(point.vector),
        order_value=point.order_value,
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def with_payload(value: Any, *, default: bool) -> Any:
    """Translate which parts of the payload are wanted."""
    match value:
        case None:
            return default
        case rest.PayloadSelectorInclude():
            return edge.PayloadSelector.Include(value.include)
        case rest.PayloadSelectorExclude():
            return edge.PayloadSelector.Exclude(value.exclude)
    return value


def scroll(body: rest.ScrollRequest) -> edge.ScrollRequest:
    """Translate a scroll."""
    _only(body, "offset", "limit", "filter", "with_payload", "with_vector", "order_by")
    return edge.ScrollRequest(
        offset=None if body.offset is None else point_id(body.offset),
        limit=10 if body.limit is None else body.limit,
        filter=filter_or_none(body.filter),
        with_payload=with_payload(body.with_payload, default=True),
        with_vector=body.with_vector or False,
        order_by=_order_by(body.order_by),
    )


def _order_by(value: str | rest.OrderBy | None) -> edge.OrderBy | None:
    if value is None:
        return None
    if isinstance(value, str):
        return edge.OrderBy(value)
    direction = edge.Direction.Desc if value.direction == rest.Direction.DESC else edge.Direction.Asc
    start = value.start_from.isoformat() if isinstance(value.start_from, date) else value.start_from
    return edge.OrderBy(value.key, direction, start)


def query(body: rest.QueryRequest) -> edge.QueryRequest:
    """Translate a query with its prefetches."""
    _only(
        body,
        *("prefetch", "query", "using", "filter", "params", "score_threshold"),
        *("limit", "offset", "with_vector", "with_payload"),
    )
    return edge.QueryRequest(
        limit=10 if body.limit is None else body.limit,
        offset=body.offset or 0,
        query=_query(body.query, body.using),
        prefetches=[_prefetch(one) for one in _list(body.prefetch)],
        filter=filter_or_none(body.filter),
        score_threshold=body.score_threshold,
        params=_search_params(body.params),
        with_vector=body.with_vector or False,
        with_payload=with_payload(body.with_payload, default=False),
    )


def _prefetch(body: rest.Prefetch) -> edge.Prefetch:
    _only(body, "prefetch", "query", "using", "filter", "params", "score_threshold", "limit")
    return edge.Prefetch(
        limit=10 if body.limit is None else body.limit,
        query=_query(body.query, body.using),
        prefetches=[_prefetch(one) for one in _list(body.prefetch)],
        params=_search_params(body.params),
        filter=filter_or_none(body.filter),
        score_threshold=body.score_threshold,
    )


def _query(value: Any, using: str | None) -> Any:  # noqa: PLR0911 - one case a line
    match value:
        case None:
            return None
        case rest.NearestQuery(mmr=None):
            return _query(value.nearest, using)
        case rest.FusionQuery(fusion=rest.Fusion.RRF):
            return edge.Fusion.Rrf(2)  # the server's default constant
        case rest.FusionQuery(fusion=rest.Fusion.DBSF):
            return edge.Fusion.Dbsf()
        case rest.RrfQuery():
            return edge.Fusion.Rrf(2 if value.rrf.k is None else value.rrf.k, value.rrf.weights)
        case rest.OrderByQuery():
            return _order_by(value.order_by)
        case rest.SparseVector() | list():
            return edge.Query.Nearest(_vector(value), using)
    raise Unsupported(f"a query by {type(value).__name__}")


def _search_params(params: rest.SearchParams | None) -> edge.SearchParams | None:
    if params is None:
        return None
    _only(params, "hnsw_ef", "exact", "indexed_only", "idf")
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=params.exact or False,
        indexed_only=params.indexed_only or False,
        idf=_idf(params.idf),
    )


def _idf(value: rest.IdfParams | None) -> edge.IdfParams | None:
    match value:
        case rest.IdfCorpusParams():
            return edge.IdfParams(filter_or_none(value.corpus))
        case rest.IdfScope.GLOBAL:
            return edge.IdfParams()
        case None:
            return None
    raise Unsupported(f"IDF over {value}")


# --- filters ---------------------------------------------------------------------------------------------------------


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def filter_or_none(value: rest.Filter | None) -> edge.Filter | None:
    """Translate a filter where there need not be one."""
    return None if value is None else filter_(value)


def filter_(value: rest.Filter) -> edge.Filter:
    """Translate a filter."""
    at_least = value.min_should
    return edge.Filter(
        must=[_condition(one) for one in _list(value.must)] or None,
        should=[_condition(one) for one in _list(value.should)] or None,
        must_not=[_condition(one) for one in _list(value.must_not)] or None,
        min_should=edge.MinShould([_condition(one) for one in at_least.conditions], at_least.min_count)
        if at_least
        else None,
    )


def _condition(value: Any) -> Any:  # noqa: PLR0911 - one case a line
    match value:
        case rest.Filter():
            return filter_(value)
        case rest.FieldCondition():
            return _field(value)
        case rest.IsEmptyCondition():
            return edge.IsEmptyCondition(value.is_empty.key)
        case rest.IsNullCondition():
            return edge.IsNullCondition(value.is_null.key)
        case rest.HasIdCondition():
            return edge.HasIdCondition({point_id(key) for key in value.has_id})
        case rest.HasVectorCondition():
            return edge.HasVectorCondition(value.has_vector)
        case rest.NestedCondition():
            return edge.NestedCondition(value.nested.key, filter_(value.nested.filter))
    raise Unsupported(f"a filter by {type(value).__name__}")


def _field(value: rest.FieldCondition) -> edge.FieldCondition:
    _only(value, "key", "match", "range", "values_count", "is_empty", "is_null")
    count = value.values_count
    return edge.FieldCondition(
        value.key,
        match=_match(value.match),
        range=_range(value.range),
        values_count=edge.ValuesCount(**count.model_dump(exclude_none=True)) if count else None,
        is_empty=value.is_empty,
        is_null=value.is_null,
    )


def _match(value: Any) -> Any:
    match value:
        case None:
            return None
        case rest.MatchValue():
            return edge.MatchValue(value.value)
        case rest.MatchAny():
            return edge.MatchAny(value.any)
        case rest.MatchExcept():
            return edge.MatchExcept(value.except_)
        case rest.MatchText():
            return edge.MatchText(value.text)
    raise Unsupported(f"a filter by {type(value).__name__}")


def _range(value: rest.Range | rest.DatetimeRange | None) -> Any:
    if value is None:
        return None
    bounds = value.model_dump(exclude_none=True)
    if isinstance(value, rest.Range):
        return edge.RangeFloat(**bounds)
    return edge.RangeDateTime(**{side: bound.isoformat() for side, bound in bounds.items()})
