"""What will become of each picture that is to do, told before anything is spent; nothing is changed.

The rules are those of the pass (`analysis.py`), in its order. What is not here: what it takes (`quote.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from vision_assets.core.audit import is_audited
from vision_assets.core.budget import Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.paid_calls import held_at
from vision_assets.core.policy import VisionPolicy, decide, rules_fingerprint
from vision_assets.core.price import TokenPrice
from vision_assets.core.quote import CallTokens, Pace, Quote, Work, quote
from vision_assets.core.reuse import Asking, Denials, Neighbour, Reuse, ReuseRules, decide_reuse
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import SCHEMA_VERSION, ProviderIdentity, vision_key
from vision_assets.core.vision_ledger import Medium, ToDo

PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class Near:
    """Pictures of a tenant that look like one of them.

    Attributes:
        earlier: That appeared before it, nearest first.
        is_awaited: One appeared after it, and may ask for its result.
    """

    earlier: Sequence[Neighbour] = ()
    is_awaited: bool = False


class QuoteLedger(Protocol):
    """What the registry of results tells; nothing of it writes."""

    async def count_unanalysed(self, tenant_id: TenantId, todo: ToDo) -> int:
        """See `VisionLedger`."""
        ...

    async def unanalysed(
        self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """See `VisionLedger`."""
        ...

    async def in_storage(
        self, tenant_id: TenantId, keys: Mapping[str, str], *, provider: ProviderIdentity
    ) -> Collection[str]:
        """Tell which pictures have a result in S3, by the object ledger.

        A result that has a row of another fingerprint is another answer, and does not count.

        Args:
            keys: Of the results, by sha256.
        """
        ...

    async def near(
        self, tenant_id: TenantId, media: Sequence[Medium], *, provider: ProviderIdentity
    ) -> Mapping[str, Near]:
        """List, by sha256, what looks like each of the pictures, as `VisionLedger.earlier_neighbours` does for one."""
        ...

    async def denials(self, tenant_id: TenantId) -> Denials:
        """See `VisionLedger`."""
        ...

    async def pace(self, tenant_id: TenantId, *, provider: ProviderIdentity) -> Pace:
        """Tell how long the provider took so far for this tenant's pictures."""
        ...


@dataclass(frozen=True, slots=True)
class _Page:
    """Pictures that are to do, with all that is asked about them."""

    media: Sequence[Medium]
    in_storage: Collection[str]
    near: Mapping[str, Near]


@dataclass(slots=True)
class Quoting:
    """Works out the quote of one tenant.

    Attributes:
        policy: Which pictures are looked at, and how far.
        gate: Of a provider that costs; None will do for one whose calls cost nothing. Nothing is held.
        has_local: There is a local provider where the policy asks for no more than the text.
        concurrency: Of the pass: calls to the provider at once.
        price: Of the provider's tokens; None: not known.
        with_budget: False: what waits for the budget is left out, as a pass without budget does.
        on_progress: Called with the number of pictures done since the last call.
    """

    tenant_id: TenantId
    provider: ProviderIdentity
    ledger: QuoteLedger
    policy: VisionPolicy = field(default_factory=VisionPolicy)
    gate: BudgetGate | None = None
    has_local: bool = False
    concurrency: int = 2
    price: TokenPrice | None = None
    with_budget: bool = True
    on_progress: Callable[[int], None] = lambda _: None
    # What will have a result of its own and is awaited by a later picture: that is all that must be kept of a page.
    _donors: set[bytes] = field(init=False, default_factory=set)
    _counts: Counter[str] = field(init=False, default_factory=Counter)
    _skipped: Counter[str] = field(init=False, default_factory=Counter)
    _reuse: ReuseRules = field(init=False, default_factory=ReuseRules)

    async def count(self) -> int:
        """Count the pictures that are to do, for the progress."""
        return await self.ledger.count_unanalysed(self.tenant_id, self._todo())

    async def quote(self) -> Quote:
        """Tell what will become of every picture, and what that takes.

        Raises:
            DatabaseUnavailable: Transient.
        """
        call, windows = CallTokens(), list[Window]()
        if self.gate is not None and self.provider.estimated_tokens:
            call = CallTokens.of(await held_at(self.gate, self.provider))
            windows = list(await self.gate.windows(self.tenant_id, provider=self.provider.name))
        strictness = self.policy.strictness
        denials = Denials() if strictness is None else await self.ledger.denials(self.tenant_id)
        self._reuse = ReuseRules(strictness, denials)
        pace = await self.ledger.pace(self.tenant_id, provider=self.provider)
        self._donors, self._counts, self._skipped = set(), Counter(), Counter()
        todo = self._todo()
        coming = asyncio.create_task(self._page(todo, after=(-1, -1, "")))
        try:
            while media := (page := await coming).media:
                last = media[-1]
                coming = asyncio.create_task(self._page(todo, after=(*last.order, last.sha256)))
                # In a thread, so that the next page comes in meanwhile.
                await asyncio.to_thread(self._sort, page)
                self.on_progress(len(media))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        work = Work(skipped=dict(self._skipped), **self._counts)
        return quote(work, call=call, windows=windows, pace=pace, concurrency=self.concurrency, price=self.price)

    def _todo(self) -> ToDo:
        """Tell what is to do, with all that waits for the budget."""
        return ToDo(
            provider=self.provider,
            rules=rules_fingerprint(self.policy, calls_cost=self._calls_cost),
            with_budget=self.with_budget,
            now=datetime.now(UTC),
        )

    @property
    def _calls_cost(self) -> bool:
        return bool(self.provider.estimated_tokens)

    async def _page(self, todo: ToDo, *, after: tuple[int, int, str]) -> _Page:
        media = await self.ledger.unanalysed(self.tenant_id, todo, after=after, limit=PAGE_SIZE)
        open_media = [medium for medium in media if medium.kept is None]
        keys = {medium.sha256: self._key(medium) for medium in open_media}
        in_storage = await self.ledger.in_storage(self.tenant_id, keys, provider=self.provider)
        comparable = [medium for medium in open_media if medium.fingerprint is not None]
        return _Page(media, in_storage, await self.ledger.near(self.tenant_id, comparable, provider=self.provider))

    def _key(self, medium: Medium) -> str:
        return vision_key(
            self.tenant_id,
            medium.sha256,
            provider=self.provider.name,
            model=self.provider.model,
            schema_version=SCHEMA_VERSION,
        )

    def _sort(self, page: _Page) -> None:
        for medium in page.media:
            self._counts["media"] += 1
            near = page.near.get(medium.sha256, Near())
            if medium.kept is not None:
                self._counts["kept"] += 1  # in Postgres it can be seen by later pictures
            elif medium.sha256 in page.in_storage:
                self._counts["in_storage"] += 1
                self._will_have_its_own(medium, near)
            elif (reuse := self._decide_reuse(medium, near)).donor is not None:
                self._with_a_donor(medium)
            else:
                self._without_a_result(medium, near, reuse)

    def _with_a_donor(self, medium: Medium) -> None:
        """Count a picture that takes another's result, unless it is audited, or the pixels speak against it."""
        decision = decide(self.policy, medium.sha256, medium.posts, quota_exhausted=False, calls_cost=self._calls_cost)
        may_be_asked = decision.verdict == "analyse"
        audited = may_be_asked and is_audited(
            medium.sha256, fingerprint=self.provider.fingerprint, share=self.policy.reuse_audit_share
        )
        self._counts["analyses_at_most"] += may_be_asked
        self._counts["analyses" if audited else "near_duplicates"] += 1

    def _decide_reuse(self, medium: Medium, near: Near) -> Reuse:
        if medium.fingerprint is None:
            return Reuse()
        own = Asking(medium.sha256, medium.fingerprint, medium.own_text)
        reuse = decide_reuse(own, near.earlier, self._reuse)
        if reuse.quarantined:
            self._reuse.denials.quarantine(own.sha256, own.fingerprint.phash)
        return reuse

    def _without_a_result(self, medium: Medium, near: Near, reuse: Reuse) -> None:
        # An earlier picture that is to do itself will have a result for this one.
        reused = any(bytes.fromhex(sha256) in self._donors for sha256 in reuse.awaited)
        self._counts["near_duplicates"] += reused
        decision = decide(self.policy, medium.sha256, medium.posts, quota_exhausted=False, calls_cost=self._calls_cost)
        if decision.verdict == "skip":
            if not reused:
                self._skipped[decision.reason] += 1
        elif decision.verdict == "ocr_only" and self.has_local:
            self._counts["text_only"] += not reused
        else:
            self._counts["analyses_at_most"] += 1
            if not reused:
                self._counts["analyses"] += 1
                self._will_have_its_own(medium, near)

    def _will_have_its_own(self, medium: Medium, near: Near) -> None:
        if near.is_awaited:
            self._donors.add(bytes.fromhex(medium.sha256))
