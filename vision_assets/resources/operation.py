"""How work is taken up and tried again, and when people are told."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import dagster as dg
from pydantic import Field, SecretStr

from vision_assets.clients.alert_channels import AlertAccess
from vision_assets.clients.postgres.alerts import PostgresAlerts
from vision_assets.clients.postgres.deliveries import PostgresDeliveries
from vision_assets.core.alert_delivery import ChannelName, Sender
from vision_assets.core.alerts import AlertBook, AlertRules
from vision_assets.resources.postgres import Ledgers


class NewPostsResource(dg.ConfigurableResource[None]):
    """How tenants with new posts are worked on."""

    runs: int = Field(default=2, description="At once")
    tenants_at_once: int = Field(default=4, description="In one run")
    run_seconds: float = Field(default=300, description="Then a run takes no more tenants")
    pictures_a_turn: int = Field(default=50, description="Of one tenant; then it goes to the end of the line")
    posts_a_turn: int = Field(default=1000, description="The same, of posts that are enriched and indexed")
    idle_seconds: float = Field(
        default=15, description="A run waits so long for another tenant before it ends: longer than one takes to start"
    )


class DeadLetterResource(dg.ConfigurableResource[None]):
    """How often items that were given up are tried again."""

    max_retries: int = Field(description="Of one item whose reason may pass, without anybody asking; 0: none")


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
            telegram_token=SecretStr(token) if token else None,
            telegram_chat_id=self.telegram_chat_id,
            telegram_api_url=self.telegram_api_url,
            webhook_url=SecretStr(webhook) if webhook else None,
        )
