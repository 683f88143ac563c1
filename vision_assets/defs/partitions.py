"""The tenants' partitions. The key is the tenant's UUID, the same as in S3, Postgres, Qdrant and the logs."""

import dagster as dg

TENANTS = dg.DynamicPartitionsDefinition(name="tenants")
