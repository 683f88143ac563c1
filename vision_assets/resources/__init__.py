"""Dagster resources: configuration in, open clients out. They open inside the step's event loop and close with it.

What is not here: any decision (`core/`), any look at the environment (`definitions.py` hands settings in).
"""

from vision_assets.resources.operation import AlertsResource, DeadLetterResource, NewPostsResource
from vision_assets.resources.postgres import DagsterStorageResource, Ledgers, PostgresResource
from vision_assets.resources.search import QdrantResource
from vision_assets.resources.storage import (
    UNBOOKED,
    MediaSourceResource,
    S3Resource,
    StorageCleanupResource,
    StorageQuotaResource,
)
from vision_assets.resources.vision import (
    VISION_CODE_VERSION,
    TokenBudgetResource,
    VisionPolicyResource,
    VisionProviderResource,
    VisionProviders,
)

__all__ = [
    "UNBOOKED",
    "VISION_CODE_VERSION",
    "AlertsResource",
    "DagsterStorageResource",
    "DeadLetterResource",
    "Ledgers",
    "MediaSourceResource",
    "NewPostsResource",
    "PostgresResource",
    "QdrantResource",
    "S3Resource",
    "StorageCleanupResource",
    "StorageQuotaResource",
    "TokenBudgetResource",
    "VisionPolicyResource",
    "VisionProviderResource",
    "VisionProviders",
]
