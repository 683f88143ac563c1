"""Who looks at pictures, which of them, and for how many tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, SecretStr

from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.policy_file import read_policy
from vision_assets.clients.provider_choice import choose_provider
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.budget_gate import ESTIMATE_FLOOR_TOKENS, BudgetGate
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import with_tenant_settings
from vision_assets.core.price import TokenPrice
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.core.vision import SCHEMA_VERSION, ProviderName, VisionProvider
from vision_assets.resources.postgres import Ledgers

if TYPE_CHECKING:
    from vision_assets.clients.gigachat import GigaChat
    from vision_assets.clients.openai_compatible import OpenAICompatible

VISION_CODE_VERSION = f"{LocalVision.name} {LocalVision.model} v{SCHEMA_VERSION}"
"""Of `vision_results`: with another one, the UI shows what was made before as outdated."""


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
    prices_per_million_tokens: dict[str, str] = Field(
        default={}, description="Decimals, by provider; of one that is not named no cost is told"
    )
    currency: str = Field(default="RUB", description="In which the providers bill, ISO 4217")

    def prices(self) -> dict[str, TokenPrice]:
        """Tell what tokens cost, by provider, where it is known."""
        return {
            provider: TokenPrice(Decimal(per_million), self.currency)
            for provider, per_million in self.prices_per_million_tokens.items()
        }

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
