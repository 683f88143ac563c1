"""The ways to people that are set, opened together.

What is not here: what each of them speaks (`telegram_bot.py`, `webhook.py`).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from vision_assets.clients.telegram_bot import API_URL, TelegramChat
from vision_assets.clients.webhook import Webhook
from vision_assets.core.alert_delivery import Channel, ChannelName
from vision_assets.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AlertAccess:
    """Where alerts go.

    Attributes:
        telegram_token: Of the bot.
        telegram_chat_id: None: nothing goes to Telegram.
        webhook_url: None: nothing goes to a webhook.
    """

    telegram_token: SecretStr | None = None
    telegram_chat_id: str | None = None
    telegram_api_url: str = API_URL
    webhook_url: SecretStr | None = None

    def names(self) -> Sequence[ChannelName]:
        """List the channels that are set.

        Raises:
            ConfigurationError: One of them is set by half, or wrong.
        """
        if self.telegram_chat_id and self.telegram_token is None:
            raise ConfigurationError(
                "ALERT_TELEGRAM_CHAT_ID is set, and TELEGRAM_BOT_TOKEN is not: set it to the token of the bot that "
                "is to write there."
            )
        if self.webhook_url and not self.webhook_url.get_secret_value().strip().startswith(("http://", "https://")):
            raise ConfigurationError("ALERT_WEBHOOK_URL begins neither with http:// nor with https://.")
        names: list[ChannelName] = ["telegram"] if self.telegram_chat_id else []
        return [*names, "webhook"] if self.webhook_url else names

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sequence[Channel]]:
        """Open the channels in the running event loop, and close them at the end; nothing is sent yet.

        Raises:
            ConfigurationError: As `names`.
        """
        names = self.names()
        async with AsyncExitStack() as stack:
            channels: list[Channel] = []
            if "telegram" in names and self.telegram_token and self.telegram_chat_id:
                telegram = TelegramChat.open(self.telegram_token, self.telegram_chat_id, api_url=self.telegram_api_url)
                channels.append(await stack.enter_async_context(telegram))
            if self.webhook_url:
                channels.append(await stack.enter_async_context(Webhook.open(self.webhook_url)))
            yield channels
