"""Assembles the Dagster definitions, and nothing else."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import dagster as dg

from vision_assets.core.vision import ProviderName
from vision_assets.logs import configure_logging
from vision_assets.resources import (
    AlertsResource,
    DagsterStorageResource,
    DeadLetterResource,
    MediaSourceResource,
    NewPostsResource,
    PostgresResource,
    QdrantResource,
    S3Resource,
    StorageCleanupResource,
    StorageQuotaResource,
    TokenBudgetResource,
    VisionPolicyResource,
    VisionProviderResource,
)
from vision_assets.settings import Settings


def default_resources(settings: Settings) -> dict[str, Any]:
    """Configure the resources from settings; secrets stay in the environment and are read when a step starts."""
    return {
        "postgres": PostgresResource(database_url=dg.EnvVar("DATABASE_URL")),
        "s3": S3Resource(
            bucket=settings.s3_bucket,
            endpoint_url=settings.s3_endpoint_url,
            access_key_id=dg.EnvVar("AWS_ACCESS_KEY_ID") if settings.aws_access_key_id else None,
            secret_access_key=dg.EnvVar("AWS_SECRET_ACCESS_KEY") if settings.aws_secret_access_key else None,
            region=settings.aws_region,
        ),
        "storage_quota": StorageQuotaResource(
            bucket_bytes=settings.storage_bucket_limit_bytes,
            tenant_bytes=settings.storage_tenant_limit_bytes,
            media_bytes=settings.storage_media_limit_bytes,
            vision_bytes=settings.storage_vision_limit_bytes,
            crawl_bytes=settings.storage_crawl_limit_bytes,
            unchecked_bytes=settings.storage_unchecked_limit_bytes,
        ),
        "storage_cleanup_plans": StorageCleanupResource(
            emergency_bytes=settings.storage_emergency_bytes,
            emergency_target_bytes=settings.storage_emergency_target_bytes,
            media_ttl_days=settings.storage_media_ttl_days,
            vision_ttl_days=settings.storage_vision_ttl_days,
            crawl_ttl_days=settings.storage_crawl_ttl_days,
        ),
        "token_budget": TokenBudgetResource(
            tenant_day_tokens=settings.budget_tenant_day_tokens,
            tenant_month_tokens=settings.budget_tenant_month_tokens,
            tenant_day_requests=settings.budget_tenant_day_requests,
            tenant_month_requests=settings.budget_tenant_month_requests,
            tenant_calls=settings.budget_tenant_calls,
            global_day_tokens=settings.budget_global_day_tokens,
            global_month_tokens=settings.budget_global_month_tokens,
            global_calls={name: settings.calls_at_once(name) for name in get_args(ProviderName)},
            estimate_floor_tokens=settings.budget_estimate_floor_tokens,
            prices_per_million_tokens={name: str(price.per_million) for name, price in settings.token_prices().items()},
            currency=settings.vision_currency,
        ),
        "media_source": MediaSourceResource(
            concurrency=settings.media_concurrency, decode_threads=settings.decode_threads
        ),
        "new_posts_limits": NewPostsResource(
            runs=settings.new_posts_runs,
            tenants_at_once=settings.new_posts_tenants_at_once,
            run_seconds=settings.new_posts_run_seconds,
            pictures_a_turn=settings.new_posts_pictures_a_turn,
            posts_a_turn=settings.new_posts_posts_a_turn,
        ),
        "vision_policy": VisionPolicyResource(
            file=str(settings.vision_policy_file) if settings.vision_policy_file else None
        ),
        "vision_provider": VisionProviderResource(
            provider=settings.provider,
            concurrency=settings.vision_concurrency,
            ocr_languages=settings.ocr_languages,
            gigachat_credentials=dg.EnvVar("GIGACHAT_CREDENTIALS") if settings.gigachat_credentials else None,
            gigachat_scope=settings.gigachat_scope,
            gigachat_model=settings.gigachat_model,
            gigachat_base_url=settings.gigachat_base_url,
            gigachat_auth_url=settings.gigachat_auth_url,
            gigachat_ca_file=str(settings.gigachat_ca_file) if settings.gigachat_ca_file else None,
            openai_base_url=settings.openai_base_url,
            openai_api_key=dg.EnvVar("OPENAI_API_KEY") if settings.openai_api_key else None,
            openai_model=settings.openai_model,
        ),
        "qdrant": QdrantResource(
            url=dg.EnvVar("QDRANT_URL"), api_key=dg.EnvVar("QDRANT_API_KEY") if settings.qdrant_api_key else None
        ),
        "dead_letter_retry": DeadLetterResource(max_retries=settings.dead_letter_retries),
        "alerts": AlertsResource(
            telegram_bot_token=dg.EnvVar("TELEGRAM_BOT_TOKEN") if settings.telegram_bot_token else None,
            telegram_chat_id=settings.alert_telegram_chat_id,
            telegram_api_url=settings.telegram_api_url,
            webhook_url=dg.EnvVar("ALERT_WEBHOOK_URL") if settings.alert_webhook_url else None,
            ui_url=settings.dagster_ui_url,
            reminder_hours=settings.alert_reminder_hours,
            group_above=settings.alert_group_above,
            flapping_changes=settings.alert_flapping_changes,
            flapping_hours=settings.alert_flapping_hours,
        ),
        "dagster_storage": DagsterStorageResource(
            database_url=dg.EnvVar("DAGSTER_POSTGRES_URL"), event_retention_days=settings.event_retention_days
        ),
    }


def build_defs(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Assemble the code location.

    Args:
        resources: Replace those of the same key.
    """
    settings = Settings()
    configure_logging(settings.log_level)
    # The embedded parts tell their URLs by a file; Dagster's EnvVar reads the environment.
    for name, value in settings.environment().items():
        os.environ.setdefault(name, value)
    # It takes one tenant a run; that one of its assets may take many, in a backfill of its own, is no concern there.
    warnings.filterwarnings("ignore", "Asset job tenant_pipeline materializes assets with varying BackfillPolicies")
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(
        loaded,
        dg.Definitions(resources=default_resources(settings) | dict(resources or {}), executor=dg.in_process_executor),
    )


defs = build_defs()
