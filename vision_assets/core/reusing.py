"""What one pass takes from earlier pictures: asks for their results, takes them, and keeps what was decided about them.

What is not here: whose result may be taken (`reuse.py`), and what becomes of a picture that takes none (`analysis.py`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import structlog

from vision_assets.core.detail import compare_files
from vision_assets.core.errors import InputRejected, MediaMissing
from vision_assets.core.neighbours import Strictness
from vision_assets.core.results import Results
from vision_assets.core.reuse import Asking, Judged, Neighbour, Refusal, Reuse, ReuseRules, decide_reuse
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionProvider, VisionResult
from vision_assets.core.vision_ledger import Medium, VisionLedger
from vision_assets.core.vision_report import VisionReport

log = structlog.get_logger(__name__)

_COMPARED_AT_ONCE = 2  # each holds two bitmaps


@dataclass(slots=True)
class Reusing:
    """The reuse of one pass.

    Attributes:
        store: Where the pictures are.
        strictness: None: nothing is reused.
        under_way: Pictures that are being done, as they began, with what ends when they are done.
    """

    tenant_id: TenantId
    provider: VisionProvider
    store: ObjectStore
    ledger: VisionLedger
    strictness: Strictness | None
    results: Results
    report: VisionReport
    under_way: Mapping[str, asyncio.Task[None]]
    _rules: ReuseRules = field(init=False, default_factory=ReuseRules)
    _refused: list[Judged] = field(init=False, default_factory=list)
    _quarantined: dict[str, str] = field(init=False, default_factory=dict)
    _comparing: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_COMPARED_AT_ONCE))

    async def begin(self) -> None:
        """Take back what was denied, once more for what a pass that was under way then took; read what is denied."""
        if self.strictness is not None:
            self.report.taken_back = await self.ledger.take_back_denied(self.tenant_id)
            self._rules = ReuseRules(self.strictness, await self.ledger.denials(self.tenant_id))

    async def decide(self, medium: Medium) -> Reuse:
        """Decide whose result a picture may take; a hash that quarantines itself is never matched from here on."""
        if medium.fingerprint is None or self.strictness is None:
            return Reuse()
        own = Asking(medium.sha256, medium.fingerprint, medium.own_text)
        reuse = decide_reuse(own, await self._neighbours(medium), self._rules)
        if reuse.quarantined:
            log.warning("vision.hash_quarantined", different=reuse.different)
            self._rules.denials.quarantine(own.sha256, own.fingerprint.phash)
            self._quarantined[own.sha256] = f"{reuse.different} different pictures within the radius of its hash"
        while reuse.donor is not None and (refusal := await self._refusal_by_pixels(medium, reuse.donor)):
            reuse = reuse.with_next_donor(refusal)
        return reuse

    async def take(self, medium: Medium, reuse: Reuse, donor: Judged, result: VisionResult) -> None:
        """Give a picture its donor's result, but for the picture's own size, unless it has got one meanwhile.

        Raises:
            StorageUnavailable: As `Results.put`.
        """
        # An answer of its own, which somebody has paid for, is the better one.
        if await self.ledger.is_analysed(self.tenant_id, medium.sha256, provider=self.provider):
            return
        log.info("vision.near_duplicate", donor_sha256=donor.candidate.sha256)
        self._count(medium, reuse)
        measured = result.analysis.measurement
        if (own := medium.fingerprint) is not None:
            measured = measured.model_copy(update={"width": own.width, "height": own.height})
        analysis = result.analysis.model_copy(
            update={"measurement": measured, "tokens_used": 0, "cost_microunits": 0, "file_id": None}
        )
        taken = self.results.make(medium, analysis, method="near_duplicate", reason="cache_hit", donor=donor)
        await self.results.put(medium, taken, how="near_duplicate", decided=(donor, *reuse.refused))

    def refuse(self, medium: Medium, reuse: Reuse) -> None:
        """Keep why a picture takes nobody's result."""
        self._count(medium, reuse)
        self._refused += reuse.refused

    async def write_progress(self) -> None:
        """Write the refusals since the last time."""
        refused, self._refused = self._refused, []
        quarantined, self._quarantined = self._quarantined, {}
        if refused or quarantined:
            await self.ledger.record_refusals(self.tenant_id, refused, quarantined=quarantined, provider=self.provider)

    def _count(self, medium: Medium, reuse: Reuse) -> None:
        if medium.fingerprint is not None:
            self.report.count_reuse(medium.fingerprint, reuse)

    async def _refusal_by_pixels(self, medium: Medium, donor: Judged) -> Refusal | None:
        """Compare the pixels of a picture with its donor's: thumbnails show no letter.

        Raises:
            MediaMissing: The picture itself is not in S3.
            StorageUnavailable: Transient.
        """
        if donor.candidate.result is None:
            return "no_result"
        async with self._comparing:
            own, other = await asyncio.gather(
                self.store.get(medium.s3_key), self.store.get(donor.candidate.result.media_s3_key)
            )
            if own is None:
                raise MediaMissing.in_storage(medium.s3_key)
            if other is None:
                return "pixels_unknown"
            try:
                detail = await asyncio.to_thread(compare_files, own, other)
            except InputRejected as error:
                log.warning("vision.not_compared", donor_sha256=donor.candidate.sha256, reason=error.reason)
                return "pixels_unknown"
        return None if detail.agrees else "pixels_differ"

    async def _neighbours(self, medium: Medium) -> Sequence[Neighbour]:
        """List earlier pictures that look alike, when those that are under way have their results."""
        # Of now: one that ends while the neighbours are read has no result there, and is waited for. Only those that
        # began before: the order of appearance may change meanwhile, and two must never wait for each other.
        under_way = dict(takewhile(lambda one: one[0] != medium.sha256, self.under_way.items()))
        found = await self.ledger.earlier_neighbours(self.tenant_id, medium, provider=self.provider)
        waiting = [under_way[n.sha256] for n in found if n.result is None and n.sha256 in under_way]
        if not waiting:
            return found
        await asyncio.wait(waiting)
        return await self.ledger.earlier_neighbours(self.tenant_id, medium, provider=self.provider)
