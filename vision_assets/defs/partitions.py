"""The tenants' partitions. The key is the tenant's UUID, the same as in S3, Postgres, Qdrant and the logs."""

import dagster as dg

TENANTS = dg.DynamicPartitionsDefinition(name="tenants")

RANGES = {
    asset: dg.BackfillPolicy.multi_run(max_partitions_per_run=tenants)
    for asset, tenants in {
        "media": 200,
        "vision_results": 100,
        "post_enrichment": 200,
        "qdrant_collection": 100,
        "tenant_storage_usage": 50,
        "billing_usage": 200,
    }.items()
}
"""Tenants in one run of a backfill.

No asset has as many as one that it is made of: a backfill would put the two in the same runs, where nothing goes on
after a range. With different ones, each tenant's next asset follows when the one before it is there.
"""
