"""A vision provider whose pictures are looked at by a model that is asked in words.

What is not here: the words (`prompts.py`), how an answer is insisted on (`asking.py`), what of a picture is sent
(`provider_pictures.py`), and how it is put before a model (`clients/`).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Protocol

from vision_assets.core.asking import Asker, Ladder, ModelIdentity, estimated_tokens, fingerprint
from vision_assets.core.policy import Prompts
from vision_assets.core.prompts import Language, Prompt, prompt
from vision_assets.core.provider_pictures import FittedPicture, PictureLimits, fitted
from vision_assets.core.replies import analysis_of
from vision_assets.core.vision import Analysis, Look, Measured


class Shown(Asker, Protocol):
    """A model with one picture before it.

    Attributes:
        file_id: Of the picture, if it is a file there.
    """

    @property
    def file_id(self) -> str | None: ...


@dataclass(slots=True, kw_only=True)
class ModelVision(ABC):
    """Implements `core.vision.VisionProvider`, but for how a picture is put before the model.

    Attributes:
        name: Of the API.
        limits: What pictures it takes.
        picture_tokens: Of one picture at most.
        model: By the API's own name.
        language: Of descriptions, labels and objects.
        prompts: Which picture is asked what.
        decode_threads: Pictures decoded at once; each may hold a full bitmap.
        ladder: Finds out how the model is asked.
    """

    name: ClassVar[str]
    limits: ClassVar[PictureLimits]
    picture_tokens: ClassVar[int]

    model: str
    language: Language = Language.RU
    prompts: Prompts = field(default_factory=Prompts)
    decode_threads: int = 2
    fingerprint: str = field(init=False)
    estimated_tokens: int = field(init=False)
    ladder: Ladder = field(init=False)
    _decoding: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        known = self.identity(self.model, self.language, self.prompts)
        self.fingerprint, self.estimated_tokens = known.fingerprint, known.estimated_tokens
        self.ladder = Ladder(self.name)
        self._decoding = asyncio.Semaphore(self.decode_threads)

    @classmethod
    def identity(cls, model: str, language: Language, prompts: Prompts) -> ModelIdentity:
        """Tell, without a connection, as whom a model answers a tenant's questions."""
        estimate = estimated_tokens(language, prompts, picture_tokens=cls.picture_tokens)
        return ModelIdentity(cls.name, model, fingerprint(language, prompts, cls.limits), estimate)

    @asynccontextmanager
    async def ready(self, content: bytes, *, mime: str, measured: Measured | None = None) -> AsyncIterator[Look]:
        """Have one picture ready to be looked at, as long as the block runs.

        Raises:
            InputRejected: Nothing was billed: it cannot be decoded, or is refused as it is.
            AnswerRefused: By the look: it will not be spoken of, or `parse_failed` with what was said instead.
            ProviderUnavailable, ProviderBudgetGone, ConfigurationError: As the Protocol says.
        """
        async with self._decoding:
            picture = await asyncio.to_thread(fitted, content, limits=self.limits, known=measured)
        asked = prompt(self.prompts.choose(mime, picture.measured.kind), self.language)
        async with self._shown(picture) as shown:
            yield partial(self._look, shown, asked, picture.measured)

    @abstractmethod
    def _shown(self, picture: FittedPicture) -> AbstractAsyncContextManager[Shown]:
        """Put a picture before the model, as long as the block runs; nothing is billed for it.

        Raises:
            As `ready`.
        """

    async def _look(self, shown: Shown, asked: Prompt, measured: Measured) -> Analysis:
        answer = await self.ladder.answer(shown, asked, self.language)
        return analysis_of(
            answer.reply.seen,
            measurement=measured.measurement,
            model=answer.model,
            tokens_used=answer.tokens,
            file_id=shown.file_id,
        )
