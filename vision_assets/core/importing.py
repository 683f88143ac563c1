"""Bring the posts of a source into the store: a stream of records in, batches out.

Neither the source's format nor the database is known here; both stand behind a Protocol. An import may be repeated or
broken off anywhere: ids are deterministic, and what is already there is not doubled.
"""

import asyncio
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol
from uuid import UUID

import structlog

from vision_assets.core.errors import ConfigurationError, ExportInvalid
from vision_assets.core.posts import Message, Post, infer_albums, post_of, storable
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

STAGE = "import"
MAX_DEAD_LETTERS = 100
"""Of one import; a source that is wrong throughout must not fill the table. The others are counted."""
MAX_TENANT_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record of the source that is none of ours, for example a service message."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A record of the source that should have become a post and cannot.

    Attributes:
        item: What it is, inside its source.
        message: For people: what is wrong and what to do.
    """

    item: str
    reason: str
    message: str


class PostSource(Protocol):
    """Something that has messages.

    Attributes:
        name: Which source it is, for people and as the dead letter's item: a file's path, say.
        total_bytes: Size of what is read; None where it is not known before.
        bytes_read: How far the reading is.
    """

    @property
    def name(self) -> str: ...
    @property
    def total_bytes(self) -> int | None: ...
    @property
    def bytes_read(self) -> int: ...

    def records(self, tenant_id: TenantId) -> Iterator[Message | Skipped | Refused]:
        """Read the source from its beginning, in its own order, as a stream.

        Raises:
            ExportInvalid: It cannot be read on; what was yielded before is good.
        """
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What an import gave up on."""

    item: str
    error_class: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Saved:
    """What was really written; the rest was there already.

    Attributes:
        posts_updated: Text, reactions or album changed since the last import.
        media_relocated: References not stored yet that now have another source.
    """

    posts_new: int
    posts_updated: int
    media_new: int
    media_relocated: int


class PostStore(Protocol):
    """Where posts are kept."""

    async def save(self, tenant_id: TenantId, posts: Sequence[Post]) -> Saved:
        """Write posts with their channels and references, all or nothing; ids are unique inside the batch."""
        ...

    async def record_dead_letters(self, tenant_id: TenantId, letters: Sequence[DeadLetter], *, stage: str) -> None:
        """Write dead letters, or count another attempt of those that are there."""
        ...

    async def resolve_dead_letters(self, tenant_id: TenantId, *, stage: str, source: str, still: Sequence[str]) -> None:
        """Close the dead letters of a source (`source` itself and `source#…`) except for the items in `still`."""
        ...


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        skipped: Messages that became no post, by reason.
        media_unavailable: Pictures of posts that the source does not give or must not, by reason.
        dead_letters: All that were refused, also those beyond the limit of rows.
        failure: Why the source could not be read to its end; what came before it is committed.
    """

    messages_read: int = 0
    posts_new: int = 0
    posts_updated: int = 0
    posts_unchanged: int = 0
    media_new: int = 0
    media_relocated: int = 0
    albums_inferred: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    media_unavailable: Counter[str] = field(default_factory=Counter)
    dead_letters: int = 0
    failure: ExportInvalid | None = None


async def import_posts(
    tenant_id: TenantId,
    source: PostSource,
    *,
    store: PostStore,
    batch_size: int = 1000,
    progress: Callable[[int], None] = lambda _: None,
) -> ImportReport:
    """Import all posts of a source; one transaction a batch.

    Args:
        batch_size: Posts held in memory and written at once.
        progress: Told the bytes read so far after each batch.

    Returns:
        The counts. A source that breaks off in the middle is no exception but the report's `failure`.

    Raises:
        DatabaseUnavailable: Transient; the batches before are committed.
    """
    report = ImportReport()
    letters: list[DeadLetter] = []
    posts = _posts(
        _messages(source.records(tenant_id), source=source.name, report=report, letters=letters), report=report
    )
    # Reading and parsing block: they go to a thread, so that the loop stays alive.
    while batch := await asyncio.to_thread(lambda: list(islice(posts, batch_size))):
        # A statement cannot touch a row twice: of a message that stands twice in a batch the last counts.
        unique = list({post.id: post for post in batch}.values())
        saved = await store.save(tenant_id, unique)
        report.posts_new += saved.posts_new
        report.posts_updated += saved.posts_updated
        report.posts_unchanged += len(batch) - saved.posts_new - saved.posts_updated
        report.media_new += saved.media_new
        report.media_relocated += saved.media_relocated
        progress(source.bytes_read)
    if letters:
        await store.record_dead_letters(tenant_id, letters, stage=STAGE)
    if report.failure is None:
        await store.resolve_dead_letters(
            tenant_id, stage=STAGE, source=storable(source.name), still=[letter.item for letter in letters]
        )
    progress(source.bytes_read)
    log.info(
        "import.finished",
        tenant_id=str(tenant_id),
        source=source.name,
        messages=report.messages_read,
        posts_new=report.posts_new,
        posts_updated=report.posts_updated,
        dead_letters=report.dead_letters,
        failure=report.failure.reason if report.failure else None,
    )
    return report


def tenant_name(raw: str) -> str:
    """Bring a tenant's name into its one form: NFC, trimmed.

    Raises:
        ConfigurationError: It is empty, too long, has control characters, or has the form of an id.
    """
    categories = {character: unicodedata.category(character) for character in raw.strip()}
    if not any(category[0] not in "CZ" for category in categories.values()):
        raise ConfigurationError("A tenant's name must have a visible character: pass --tenant NAME.")
    if forbidden := sorted(c for c, category in categories.items() if category in {"Cc", "Cs", "Zl", "Zp"}):
        raise ConfigurationError(
            f"A tenant's name must not have control characters, this one has {forbidden[0]!a}: leave it out."
        )
    name = unicodedata.normalize("NFC", raw).strip()
    if len(name) > MAX_TENANT_NAME_CHARACTERS:
        raise ConfigurationError(
            f"A tenant's name may have {MAX_TENANT_NAME_CHARACTERS} characters, this one has {len(name)}: shorten it."
        )
    with suppress(ValueError):
        raise ConfigurationError(f"{UUID(name)} has the form of a tenant's id: choose a name that has not.")
    return name


def _messages(
    records: Iterable[Message | Skipped | Refused], *, source: str, report: ImportReport, letters: list[DeadLetter]
) -> Iterator[Message]:
    """Pass the messages on and count the rest.

    A failure of the source ends the stream instead of breaking it, so that the last album before it is kept.
    """
    try:
        for record in records:
            report.messages_read += 1
            match record:
                case Message():
                    yield record
                case Skipped(reason):
                    report.skipped[reason] += 1
                case Refused(item, reason, message):
                    report.dead_letters += 1
                    if len(letters) < MAX_DEAD_LETTERS:
                        key = storable(f"{source}#{item}")
                        letters.append(DeadLetter(key, "InputRejected", reason, storable(message)))
    except ExportInvalid as error:
        log.warning("import.broken_off", source=source, reason=error.reason, error=str(error))
        report.failure = error
        report.dead_letters += 1
        letters.append(DeadLetter(storable(source), type(error).__name__, error.reason, storable(str(error))))


def _posts(messages: Iterable[Message], *, report: ImportReport) -> Iterator[Post]:
    for group in infer_albums(messages):
        post = post_of(group)
        if post is None:
            report.skipped["no_text_or_picture"] += len(group)
            continue
        report.albums_inferred += post.album_inferred
        report.media_unavailable.update(picture.reason for picture in post.media if picture.reason)
        yield post
