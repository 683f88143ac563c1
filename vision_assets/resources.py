"""Dagster resources: configuration in, open clients out. They open inside the step's event loop and close with it.

What is not here: any decision (`core/`), any look at the environment (`definitions.py` hands settings in).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, SecretStr

from vision_assets.clients.alert_channels import AlertAccess
from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.media_files import LocalFiles
from vision_assets.clients.policy_file import read_policy
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.alerts import PostgresAlerts
from vision_assets.clients.postgres.billing import PostgresBilling
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.clients.postgres.clusters import PostgresClusters
from vision_assets.clients.postgres.dagster_events import prune_events
from vision_assets.clients.postgres.dead_letters import PostgresDeadLetters
from vision_assets.clients.postgres.deliveries import PostgresDeliveries
from vision_assets.clients.postgres.enrichment import PostgresEnrichment
from vision_assets.clients.postgres.media import PostgresMedia
from vision_assets.clients.postgres.orphans import PostgresOrphans
from vision_assets.clients.postgres.posts import find_tenant, list_tenants, tenants_activity
from vision_assets.clients.postgres.quote import PostgresQuote
from vision_assets.clients.postgres.search import PostgresIndexLedger
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.clients.provider_choice import choose_provider
from vision_assets.clients.qdrant import QdrantIndex
from vision_assets.clients.s3 import S3Bucket
from vision_assets.clients.s3_uploads import S3Uploads
from vision_assets.core.alert_delivery import ChannelName, Sender
from vision_assets.core.alerts import AlertBook, AlertRules
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.budget_gate import ESTIMATE_FLOOR_TOKENS, BudgetGate
from vision_assets.core.cleanup import Plan, emergency_plan, ttl_plan
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.guarded_store import QuotaGuardedStore, Unbooked
from vision_assets.core.media import MediaSource
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import with_tenant_settings
from vision_assets.core.price import TokenPrice
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.core.vision import SCHEMA_VERSION, ProviderName, VisionProvider

if TYPE_CHECKING:
    from vision_assets.clients.gigachat import GigaChat
    from vision_assets.clients.openai_compatible import OpenAICompatible


@dataclass(frozen=True, slots=True)
class Ledgers:
    """All that the core asks of Postgres, over one pool; the budget has connections of its own."""

    database: Database
    media: PostgresMedia
    vision: PostgresVision
    quote: PostgresQuote
    enrichment: PostgresEnrichment
    storage: PostgresStorage
    budget: PostgresBudget
    cleanup: PostgresCleanup
    reconciliation: PostgresReconciliation
    orphans: PostgresOrphans
    index: PostgresIndexLedger
    clusters: PostgresClusters
    line: PostgresLine
    billing: PostgresBilling
    dead_letters: PostgresDeadLetters

    async def tenant(self, tenant_id: str) -> Tenant:
        """Find an active tenant.

        Raises:
            TenantUnknown: There is none.
        """
        return await find_tenant(self.database, tenant_id)

    async def tenants(self) -> list[Tenant]:
        """List the active tenants."""
        return await list_tenants(self.database)

    async def tenants_activity(self) -> dict[TenantId, bool]:
        """Tell of every tenant whether it is active."""
        return await tenants_activity(self.database)


UNBOOKED = Unbooked()
"""One a process: its steps share what is let through without a check."""

VISION_CODE_VERSION = f"{LocalVision.name} {LocalVision.model} v{SCHEMA_VERSION}"
"""Of `vision_results`: with another one, the UI shows what was made before as outdated."""


class PostgresResource(dg.ConfigurableResource[None]):
    """The project's Postgres database."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    max_connections: int = Field(default=8, description="Of one step")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledgers]:
        """Open a pool in the running event loop, and close it at the end."""
        async with (
            Database.open(self.database_url, max_size=self.max_connections) as database,
            PostgresBudget.open(self.database_url) as budget,
        ):
            yield Ledgers(
                database=database,
                media=PostgresMedia(database),
                vision=PostgresVision(database),
                quote=PostgresQuote(database),
                enrichment=PostgresEnrichment(database),
                storage=PostgresStorage(database),
                budget=budget,
                cleanup=PostgresCleanup(database),
                reconciliation=PostgresReconciliation(database),
                orphans=PostgresOrphans(database),
                index=PostgresIndexLedger(database),
                clusters=PostgresClusters(database),
                line=PostgresLine(database),
                billing=PostgresBilling(database),
                dead_letters=PostgresDeadLetters(database),
            )


class S3Resource(dg.ConfigurableResource[None]):
    """The bucket of all tenants' objects."""

    bucket: str
    endpoint_url: str | None = Field(default=None, description="Of an S3 server; None means AWS")
    access_key_id: str | None = None
    secret_access_key: str | None = None
    region: str = "us-east-1"

    def connect(self) -> S3Bucket:
        """Configure a client; nothing is sent yet."""
        return S3Bucket.connect(
            self.bucket,
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region=self.region,
        )

    def connect_uploads(self) -> S3Uploads:
        """Configure a client for multipart uploads; nothing is sent yet."""
        return S3Uploads.connect(
            self.bucket,
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region=self.region,
        )


class StorageCleanupResource(dg.ConfigurableResource[None]):
    """When the storage is cleaned up, and what goes."""

    emergency_bytes: int = Field(description="Stored and reserved by all tenants")
    emergency_target_bytes: int
    media_ttl_days: int = Field(description="Of media that no post refers to, since the last use")
    vision_ttl_days: int
    crawl_ttl_days: int

    def emergency(self) -> Plan:
        """Plan the clean-up for the case that the bucket runs full.

        Raises:
            ConfigurationError: The target is above the threshold.
        """
        return emergency_plan(threshold_bytes=self.emergency_bytes, target_bytes=self.emergency_target_bytes)

    def daily(self) -> Plan:
        """Plan the clean-up of what has outlived its time."""
        return ttl_plan(
            crawl_days=self.crawl_ttl_days, vision_days=self.vision_ttl_days, media_days=self.media_ttl_days
        )


class StorageQuotaResource(dg.ConfigurableResource[None]):
    """Storage limits in bytes."""

    bucket_bytes: int
    tenant_bytes: int
    media_bytes: int
    vision_bytes: int
    crawl_bytes: int
    unchecked_bytes: int = Field(description="Of puts of this process while the ledger cannot be reached")

    def guard(self, store: S3Bucket, ledgers: Ledgers) -> QuotaGuardedStore:
        """Put the quota before a store."""
        types: dict[ContentType, int] = {
            "media": self.media_bytes,
            "vision": self.vision_bytes,
            "crawl": self.crawl_bytes,
        }
        limits = StorageLimits(bucket_bytes=self.bucket_bytes, tenant_bytes=self.tenant_bytes, type_bytes=types)
        return QuotaGuardedStore(
            store=store,
            ledger=ledgers.storage,
            limits=limits,
            unbooked=UNBOOKED,
            unchecked_limit_bytes=self.unchecked_bytes,
        )


class TokenBudgetResource(dg.ConfigurableResource[None]):
    """Limits of the token budget where the ledger has none of its own; None is no limit."""

    tenant_day_tokens: int | None = None
    tenant_month_tokens: int | None = None
    tenant_day_requests: int | None = None
    tenant_month_requests: int | None = None
    tenant_calls: int | None = Field(default=None, description="At once, to one provider")
    global_day_tokens: int | None = None
    global_month_tokens: int | None = None
    global_calls: dict[str, int] = Field(default={}, description="At once, by provider")
    estimate_floor_tokens: int = ESTIMATE_FLOOR_TOKENS
    price_per_million_tokens: str | None = Field(default=None, description="Decimal; None: no cost is told")
    currency: str = Field(default="RUB", description="In which the provider bills, ISO 4217")

    def price(self) -> TokenPrice | None:
        """Tell what tokens cost, if that is known."""
        per_million = self.price_per_million_tokens
        return None if per_million is None else TokenPrice(Decimal(per_million), self.currency)

    def gate(self, ledgers: Ledgers, *, provider: str | None = None) -> BudgetGate:
        """Put the budget before a step's calls; whoever lets calls through it closes it.

        Args:
            provider: To whom they go; None: there are none.
        """
        limits = BudgetLimits(
            tenant={
                "day": Allowance(self.tenant_day_tokens, self.tenant_day_requests),
                "month": Allowance(self.tenant_month_tokens, self.tenant_month_requests),
                "calls": Allowance(requests=self.tenant_calls),
            },
            everyone={
                "day": Allowance(self.global_day_tokens),
                "month": Allowance(self.global_month_tokens),
                "calls": Allowance(requests=self.global_calls.get(provider or "")),
            },
        )
        return BudgetGate(ledgers.budget, limits, estimate_floor_tokens=self.estimate_floor_tokens)


class NewPostsResource(dg.ConfigurableResource[None]):
    """How tenants with new posts are worked on."""

    runs: int = Field(default=2, description="At once")
    tenants_at_once: int = Field(default=4, description="In one run")
    run_seconds: float = Field(default=300, description="Then a run takes no more tenants")
    pictures_a_turn: int = Field(default=50, description="Of one tenant; then it goes to the end of the line")
    idle_seconds: float = Field(
        default=15, description="A run waits so long for another tenant before it ends: longer than one takes to start"
    )


class DeadLetterResource(dg.ConfigurableResource[None]):
    """How often items that were given up are tried again."""

    max_retries: int = Field(description="Of one item whose reason may pass, without anybody asking; 0: none")


class MediaSourceResource(dg.ConfigurableResource[None]):
    """Where imported posts' pictures are read, and how many at once."""

    concurrency: int = Field(default=8, description="Files read and uploaded at once")
    decode_threads: int = Field(default=2, description="Pictures decoded at once; each holds a bitmap")

    def connect(self) -> MediaSource:
        """Give the reader of the references."""
        return LocalFiles()


class VisionPolicyResource(dg.ConfigurableResource[None]):
    """What may be looked at, by whom, and with which prompt."""

    file: str | None = Field(default=None, description="YAML; None: the defaults")

    def policy(self, tenant: Tenant) -> VisionPolicy:
        """Read the policy of a tenant: the file's, with the tenant's own settings over it.

        Raises:
            ConfigurationError: One of them is wrong; says where.
        """
        of_all = read_policy(Path(self.file) if self.file else None).policy
        return with_tenant_settings(of_all, tenant.settings, tenant_name=tenant.name)


class VisionProviderResource(dg.ConfigurableResource[None]):
    """Who looks at the pictures: the policy chooses, and what it leaves open is said here."""

    provider: str = Field(default=LocalVision.name, description="local, gigachat or openai")
    concurrency: int = Field(default=2, description="Pictures analysed at once")
    ocr_languages: str = Field(default="rus+eng", description="Tesseract languages, joined by +")
    gigachat_credentials: str | None = None
    gigachat_scope: str = "GIGACHAT_API_PERS"
    gigachat_model: str = "GigaChat-2-Max"
    gigachat_base_url: str | None = Field(default=None, description="None: as the official client has it")
    gigachat_auth_url: str | None = Field(default=None, description="None: as the official client has it")
    gigachat_ca_file: str | None = Field(default=None, description="PEM; None: the system's authorities")
    openai_base_url: str = "https://api.openai.com/v1"
    openai_api_key: str | None = Field(default=None, description="None: none is sent")
    openai_model: str | None = None

    def identity(self, policy: VisionPolicy) -> tuple[ProviderName, str]:
        """Tell name and model: under them results are found without opening the provider.

        Raises:
            ConfigurationError: There is no such provider, or no model is named for it.
        """
        return choose_provider(
            policy,
            provider=self.provider,
            gigachat_model=self.gigachat_model,
            openai_model=self.openai_model,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator["VisionProviders"]:
        """Open the providers of a step's tenants in the running event loop, and close them at the end."""
        async with AsyncExitStack() as opened:
            yield VisionProviders(self, opened)

    async def delete_leftovers(self) -> int:
        """Delete files that killed workers have left at the one provider that keeps any.

        Returns:
            Number of files deleted.

        Raises:
            ConfigurationError: GigaChat is wanted without credentials.
            ProviderUnavailable: Transient.
        """
        if self.provider != "gigachat" and not self.gigachat_credentials:
            return 0
        async with self.gigachat() as api:
            return await api.delete_leftovers()

    @asynccontextmanager
    async def gigachat(self) -> "AsyncIterator[GigaChat]":
        """Open a client of GigaChat.

        Raises:
            ConfigurationError: There are no credentials.
        """
        # The SDKs take a second to load, and most processes never need them.
        from vision_assets.clients.gigachat import GigaChat  # noqa: PLC0415
        from vision_assets.clients.gigachat_wire import AUTH_URL, BASE_URL, GigaChatAccess  # noqa: PLC0415

        credentials = (self.gigachat_credentials or "").strip()
        if not credentials:
            raise ConfigurationError(
                "GigaChat is to look at pictures, and GIGACHAT_CREDENTIALS is not set: set it to the account's "
                "authorization key, or choose another provider by VISION_PROVIDER or the policy's `provider`."
            )
        access = GigaChatAccess(
            credentials=SecretStr(credentials),
            scope=self.gigachat_scope,
            base_url=self.gigachat_base_url or BASE_URL,
            auth_url=self.gigachat_auth_url or AUTH_URL,
            ca_file=Path(self.gigachat_ca_file) if self.gigachat_ca_file else None,
        )
        async with GigaChat.open(access) as api:
            yield api

    @asynccontextmanager
    async def openai(self) -> "AsyncIterator[OpenAICompatible]":
        """Open a client of the server that speaks OpenAI's protocol."""
        from vision_assets.clients.openai_compatible import OpenAIAccess, OpenAICompatible  # noqa: PLC0415

        key = (self.openai_api_key or "").strip()
        access = OpenAIAccess(self.openai_base_url, SecretStr(key) if key else None)
        async with OpenAICompatible.open(access) as client:
            yield client

    def local(self) -> AbstractAsyncContextManager[LocalVision]:
        """Open the provider that works offline."""
        return LocalVision.open(languages=self.ocr_languages, threads=self.concurrency)


@dataclass(slots=True)
class VisionProviders:
    """Looks at pictures for the tenants of one step; a client is opened when the first of them needs it, and kept."""

    resource: VisionProviderResource
    _opened: AsyncExitStack
    _gigachat: "GigaChat | None" = None
    _openai: "OpenAICompatible | None" = None
    _local: LocalVision | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of(self, tenant_id: TenantId, policy: VisionPolicy) -> VisionProvider:
        """Give the provider of a tenant's pictures.

        Raises:
            ConfigurationError: As `VisionProviderResource.identity`; or GigaChat is wanted without credentials.
        """
        name, model = self.resource.identity(policy)
        match name:
            case "gigachat":
                from vision_assets.clients.gigachat_vision import GigaChatVision  # noqa: PLC0415 - see `gigachat`

                async with self._opening:
                    if self._gigachat is None:
                        self._gigachat = await self._opened.enter_async_context(self.resource.gigachat())
                return GigaChatVision(
                    self._gigachat,
                    tenant_id,
                    model=model,
                    language=policy.description_language,
                    prompts=policy.prompts,
                )
            case "openai":
                from vision_assets.clients.openai_vision import OpenAIVision  # noqa: PLC0415 - see `gigachat`

                async with self._opening:
                    if self._openai is None:
                        self._openai = await self._opened.enter_async_context(self.resource.openai())
                return OpenAIVision(
                    self._openai,
                    tenant_id,
                    model=model,
                    language=policy.description_language,
                    prompts=policy.prompts,
                )
            case "local":
                return await self._open_local()

    async def reader(self, policy: VisionPolicy) -> VisionProvider | None:
        """Give the provider that reads texts at no cost where the policy's own may not be asked; None: that is free."""
        return None if self.resource.identity(policy)[0] == LocalVision.name else await self._open_local()

    async def _open_local(self) -> LocalVision:
        async with self._opening:
            if self._local is None:
                self._local = await self._opened.enter_async_context(self.resource.local())
            return self._local


class QdrantResource(dg.ConfigurableResource[None]):
    """The search index."""

    url: str
    api_key: str | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[QdrantIndex]:
        """Open a client in the running event loop, and close it at the end."""
        async with QdrantIndex(self.url, api_key=self.api_key) as index:
            yield index


class AlertsResource(dg.ConfigurableResource[None]):
    """When people are told that something is wrong, and how."""

    telegram_bot_token: str | None = None
    telegram_chat_id: str | None = Field(default=None, description="None: nothing goes to Telegram")
    telegram_api_url: str = "https://api.telegram.org"
    webhook_url: str | None = Field(default=None, description="None: nothing goes to a webhook")
    ui_url: str | None = Field(default=None, description="Of Dagster's UI, for links")
    reminder_hours: float = 24
    group_above: int = Field(default=5, description="Tenants that share a message")
    flapping_changes: int = 4
    flapping_hours: float = 24

    def rules(self) -> AlertRules:
        """Tell when to speak."""
        return AlertRules(
            remind_after=timedelta(hours=self.reminder_hours),
            flapping_changes=self.flapping_changes,
            flapping_window=timedelta(hours=self.flapping_hours),
            group_above=self.group_above,
        )

    def channel_names(self) -> Sequence[ChannelName]:
        """List the channels that are set.

        Raises:
            ConfigurationError: One of them is set by half, or wrong.
        """
        return self._access().names()

    def book(self, ledgers: Ledgers) -> AlertBook:
        """Give what evaluations are taken in by.

        Raises:
            ConfigurationError: As `channel_names`.
        """
        return PostgresAlerts(ledgers.database, self.channel_names())

    @asynccontextmanager
    async def open_sender(self, ledgers: Ledgers) -> AsyncIterator[Sender]:
        """Open the channels in the running event loop, and close them at the end.

        Raises:
            ConfigurationError: As `channel_names`.
        """
        async with self._access().open() as channels:
            yield Sender(PostgresDeliveries(ledgers.database, self.ui_url), channels)

    def _access(self) -> AlertAccess:
        token, webhook = self.telegram_bot_token, self.webhook_url
        return AlertAccess(
            telegram_token=SecretStr(token.strip()) if token else None,
            telegram_chat_id=self.telegram_chat_id,
            telegram_api_url=self.telegram_api_url,
            webhook_url=SecretStr(webhook) if webhook else None,
        )


class DagsterStorageResource(dg.ConfigurableResource[None]):
    """Dagster's own database, for its retention alone."""

    database_url: str = Field(description="postgresql+psycopg2://user:password@host:port/database, as Dagster has it")
    event_retention_days: int = 30

    async def prune(self, *, before: datetime) -> int:
        """Delete old log events.

        Returns:
            Number of events deleted.
        """
        url = self.database_url.replace("postgresql+psycopg2://", "postgresql://", 1)
        async with Database.open(url, max_size=1) as database:
            return await prune_events(database, before=before)
