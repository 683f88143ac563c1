"""What becomes of pictures that look alike: whose result is taken, why not another's, and what is kept of that.

What is not here: the rules themselves (`unit/test_reuse.py`), and the commands (`test_reuse_commands.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench import Bench, NewBench
from tests.lookalikes import Posts, copies, spotted, with_more_contrast
from tests.pictures import photo
from vision_assets.clients.postgres.neighbours import MAX_NEIGHBOURS, fingerprint_of
from vision_assets.clients.postgres.reuse import allow, deny, read_denials
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.errors import DatabaseConflict
from vision_assets.core.neighbours import Fingerprint, Likeness
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.reuse import QUARANTINE_FROM, Denials, Judged, Neighbour
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import ProviderIdentity, VisionProvider
from vision_assets.core.vision_ledger import Medium, ToDo

DECIDED = """
SELECT sha256, candidate_sha256, verdict, reason, strictness FROM reuse_decisions WHERE tenant_id = $1
ORDER BY sha256, candidate_sha256
"""
DONORS = "SELECT sha256, method, donor_sha256 FROM vision_results WHERE tenant_id = $1"
COUNTED = """
SELECT labels->>'verdict', labels->>'reason', value FROM counters
WHERE tenant_id = $1 AND name = 'vision_reuse_decisions_total' ORDER BY 1, 2
"""
DENIED = "SELECT sha256, origin, reason FROM reuse_denials WHERE tenant_id = $1 ORDER BY sha256"


CROWD = """
WITH crowd AS (
    INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
    SELECT tenant_id, repeat(md5(n::text), 2), mime, bytes, width, height, n::text, n, 0
    FROM media_objects, generate_series(1, $2) n WHERE tenant_id = $1
    RETURNING sha256
)
INSERT INTO phash_index (tenant_id, sha256, algorithm, phash, phash256, thumbnail, quality)
SELECT h.tenant_id, c.sha256, h.algorithm, h.phash, h.phash256, h.thumbnail, h.quality
FROM crowd c, phash_index h WHERE h.tenant_id = $1
"""


async def fingerprint_of_picture(bench: Bench, sha256: str) -> Fingerprint:
    """What is compared of a stored picture."""
    [row] = await bench.world.database.pool.fetch(
        "SELECT phash, phash256, thumbnail, width, height FROM phash_index JOIN media_objects USING (tenant_id, sha256)"
        " WHERE sha256 = $1",
        sha256,
    )
    return fingerprint_of(dict(row))


@pytest.fixture
async def bench(new_bench: NewBench) -> Bench:
    """A tenant without pictures, all of whose pictures the policy lets through."""
    bench = await new_bench("Payer")
    bench.policy = VisionPolicy(max_pictures_per_post=100)
    return bench


@pytest.fixture
def posts(bench: Bench, tmp_path: Path) -> Posts:
    """Posts of the bench."""
    return Posts(bench, tmp_path)


async def test_a_reuse_is_kept_with_its_decision(bench: Bench, posts: Posts) -> None:
    """Donor and distances stand beside the result, in its provenance in Postgres and S3, and in the counters."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    report = await bench.analyse()
    assert report.methods == {"near_duplicate": 1}
    [row] = await bench.world.database.pool.fetch("SELECT * FROM reuse_decisions")
    assert (row["tenant_id"], row["sha256"], row["candidate_sha256"]) == (bench.tenant.id, copy, first)
    assert (row["verdict"], row["reason"], row["strictness"]) == ("reused", "same_picture", "normal")
    assert (row["provider"], row["model"]) == ("paid", "test-1")
    [(quality,)] = await bench.rows("SELECT min(quality) FROM phash_index")
    assert row["quality"] == quality
    [(provenance, document)] = await bench.rows(
        "SELECT provenance, result->'provenance' FROM vision_results WHERE sha256 = $1", copy
    )
    assert isinstance(provenance, dict)
    assert provenance["donor_sha256"] == first
    assert provenance["distance_bits"] == row["distance_bits"]
    assert provenance["distance_256_bits"] == row["distance_256_bits"]
    assert provenance["cell_difference"] == pytest.approx(row["cell_difference"])
    assert 0 < row["cell_difference"] <= 8
    assert isinstance(document, dict)
    assert document.items() <= provenance.items()
    assert await bench.rows(COUNTED, bench.tenant.id) == [("reused", "same_picture", 1)]
    assert [pair.judged.candidate.sha256 for pair in report.reused_pairs] == [first]


async def test_refusals_are_kept_with_their_reasons(bench: Bench, posts: Posts) -> None:
    """A picture that is looked at for itself says why no other's answer would do; done again, nothing changes."""
    bench.provider.text = "5 рублей"
    first, other = await posts.show(photo(320, 240), spotted(3))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    report = await bench.analyse()
    assert bench.provider.calls == [first, other, copy]
    assert report.reuse == {("refused", "cells"): 1, ("refused", "digits"): 1}
    assert await bench.rows(DECIDED, bench.tenant.id) == sorted(
        [
            (other, first, "refused", "cells", "normal"),
            (copy, first, "refused", "digits", "normal"),
            (copy, other, "refused", "cells", "normal"),
        ]
    )
    rows = await bench.rows("SELECT * FROM reuse_decisions ORDER BY 1, 2, 3")
    await bench.analyse()
    assert await bench.rows("SELECT * FROM reuse_decisions ORDER BY 1, 2, 3") == rows
    assert await bench.rows(COUNTED, bench.tenant.id) == [("refused", "cells", 2), ("refused", "digits", 1)]


async def test_a_picture_without_candidates_costs_no_round_trip(bench: Bench, posts: Posts) -> None:
    """Nothing is written about reuse where there was nothing to decide."""
    await posts.show(photo(320, 240, seed=1), photo(320, 240, seed=2))

    class Silent(PostgresVision):
        """Takes no refusals."""

        async def record_refusals(
            self,
            tenant_id: TenantId,
            refused: Sequence[Judged],
            *,
            quarantined: Mapping[str, str],
            provider: ProviderIdentity,
        ) -> None:
            """Fail."""
            raise DatabaseConflict("There was nothing to write.")

    assert (await bench.analyse(ledger=Silent(bench.world.database))).analyses == 2


async def test_the_policy_says_how_alike(bench: Bench, posts: Posts) -> None:
    """What is too different for a strict tenant will do for another; never, and nothing is compared."""
    await posts.show(photo(320, 240))
    await bench.analyse()
    bench.policy = VisionPolicy(reuse="never")
    await posts.show(*copies())
    assert (await bench.analyse()).analyses == 1
    assert await bench.rows(DECIDED, bench.tenant.id) == []
    [faint] = await posts.show(with_more_contrast())
    bench.policy = VisionPolicy(reuse="normal")
    report = await bench.analyse()
    assert report.methods == {"near_duplicate": 1}
    [(cells,)] = await bench.rows("SELECT cell_difference FROM reuse_decisions WHERE verdict = 'reused'")
    assert isinstance(cells, float)
    assert 8 < cells <= 12
    bench.policy = VisionPolicy(reuse="strict")
    await bench.world.database.pool.execute("DELETE FROM vision_results WHERE sha256 = $1", faint)
    assert (await bench.analyse()).analyses == 1


async def test_the_pixels_decide_in_the_end(bench: Bench, posts: Posts) -> None:
    """A spot that the thumbnail hardly shows makes another picture; then the next donor is asked."""
    [faint] = await posts.show(spotted(0, by=11))
    await bench.analyse()
    [first] = await posts.show(photo(320, 240))
    report = await bench.analyse()
    assert report.reuse == {("refused", "pixels_differ"): 1}
    [copy] = await posts.show(*copies())
    assert (await bench.analyse()).methods == {"near_duplicate": 1}
    assert [row[:4] for row in await bench.rows(DECIDED, bench.tenant.id) if row[0] == copy and row[2] == "reused"] == [
        (copy, first, "reused", "same_picture")
    ]
    assert faint in bench.provider.calls


async def test_a_donor_whose_file_is_gone_gives_nothing(bench: Bench, posts: Posts) -> None:
    """Without its pixels nobody knows; a picture whose own file is gone is to be stored again."""
    await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    stored = await bench.world.keys("media/")
    await bench.world.bucket.delete([key for key in stored if copy not in key])
    report = await bench.analyse()
    assert (report.analyses, report.reuse) == (1, {("refused", "pixels_unknown"): 1})
    [other] = await posts.show(*copies(2)[1:])
    await bench.world.bucket.delete([key for key in await bench.world.keys("media/") if other in key])
    assert (await bench.analyse()).reasons == {"missing": 1}


@dataclass(frozen=True, slots=True)
class Moving(PostgresVision):
    """Lets a picture appear earlier than it did, right after the pass has read what is to do."""

    sha256: str = ""

    async def unanalysed(
        self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """Read, and move."""
        page = await PostgresVision.unanalysed(self, tenant_id, todo, after=after, limit=limit)
        move = "UPDATE media_objects SET first_post_seq = 0 WHERE tenant_id = $1 AND sha256 = $2"
        await self.database.pool.execute(move, tenant_id, self.sha256)
        return page


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", [0, 1])
async def test_no_picture_waits_for_itself_nor_for_its_twin(bench: Bench, posts: Posts, place: int) -> None:
    """A post that is stored meanwhile, and shows a picture earlier, makes none of them wait for ever."""
    shown = await posts.show(photo(320, 240), *copies())
    report = await bench.analyse(ledger=Moving(bench.world.database, sha256=shown[place]))
    assert (report.analyses + report.methods["near_duplicate"], report.failures) == (2, [])


async def test_a_crowd_without_results_hides_no_donor(bench: Bench, posts: Posts) -> None:
    """Many earlier copies that were skipped leave the place of the one that has an answer."""
    [donor] = await posts.show(photo(320, 240))
    await bench.analyse()
    await bench.world.database.pool.execute("UPDATE media_objects SET first_post_seq = 1000")
    await bench.world.database.pool.execute(CROWD, bench.tenant.id, MAX_NEIGHBOURS + 6)
    medium = Medium("f" * 64, "image/png", "k", (2000, 0), await fingerprint_of_picture(bench, donor))
    found = await PostgresVision(bench.world.database).earlier_neighbours(
        bench.tenant.id, medium, provider=bench.provider
    )
    assert [one.sha256 for one in found if one.result is not None] == [donor]
    assert len(found) == MAX_NEIGHBOURS + 1


async def test_what_was_decided_under_other_rules_is_decided_anew(bench: Bench, posts: Posts) -> None:
    """A picture that was skipped takes a result as soon as the tenant lets less alike ones be reused."""
    await posts.show(photo(320, 240))
    await bench.analyse()
    await posts.show(with_more_contrast())
    bench.policy = VisionPolicy(max_pictures_per_post=0, reuse="strict")
    assert (await bench.analyse()).reasons == {"over_post_cap": 1}
    bench.policy = VisionPolicy(max_pictures_per_post=0, reuse="normal")
    assert (await bench.analyse()).methods == {"near_duplicate": 1}


async def test_nothing_crosses_between_tenants(bench: Bench, new_bench: NewBench, posts: Posts, tmp_path: Path) -> None:
    """Two tenants with the same pictures know nothing of each other: neither results, nor decisions, nor denials."""
    first, _ = await posts.show(photo(320, 240), *copies())
    await bench.analyse()
    await deny(bench.world.database, bench.tenant.id, first, reason="mine")
    other = await new_bench("Other")
    folder = tmp_path / "other"
    folder.mkdir()
    there = Posts(other, folder)
    await there.show(photo(320, 240), *copies())
    assert other.sha256s == bench.sha256s
    report = await other.analyse()
    assert (report.analyses, report.methods) == (1, {"new": 1, "near_duplicate": 1})
    assert await other.rows(DENIED, other.tenant.id) == []
    assert [row[2:4] for row in await other.rows(DECIDED, other.tenant.id)] == [("reused", "same_picture")]
    assert [row[2:4] for row in await bench.rows(DECIDED, bench.tenant.id)] == [("refused", "denied")]
    assert (await bench.analyse()).analyses == 1
    assert [row[2:4] for row in await other.rows(DECIDED, other.tenant.id)] == [("reused", "same_picture")]
    assert await read_denials(bench.world.database, other.tenant.id) == await read_denials(
        bench.world.database, (await other.world.tenant("Third")).id
    )


async def test_a_denied_donor_gives_no_more_and_what_it_gave_is_done_again(bench: Bench, posts: Posts) -> None:
    """Its copies are looked at for themselves, through policy and budget; once it is allowed again, it gives again."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    one, two = await posts.show(*copies(2))
    await bench.analyse()
    assert await deny(bench.world.database, bench.tenant.id, first, reason="a price stands there") == 2
    assert await bench.rows(DENIED, bench.tenant.id) == [(first, "operator", "a price stands there")]
    assert await bench.rows("SELECT DISTINCT method, reason, result FROM vision_results WHERE sha256 <> $1", first) == [
        ("skipped", "reuse_denied", None)
    ]
    assert {row[2:4] for row in await bench.rows(DECIDED, bench.tenant.id)} == {("refused", "denied")}
    bench.policy = VisionPolicy(max_pictures_per_post=0, reuse="strict")
    assert (await bench.analyse()).reasons == {"over_post_cap": 2}
    bench.policy = VisionPolicy()
    # The wrong result still lies in S3, and is no answer.
    bench.provider.text = "5"
    assert (await bench.analyse()).methods == {"new": 2}
    assert await deny(bench.world.database, bench.tenant.id, first, reason="again") == 0
    assert await allow(bench.world.database, bench.tenant.id, first)
    assert not await allow(bench.world.database, bench.tenant.id, first)
    await bench.world.database.pool.execute("DELETE FROM vision_results WHERE sha256 IN ($1, $2)", one, two)
    for key in await bench.world.keys("vision/"):
        if one in key or two in key:
            await bench.world.bucket.delete(key)
    assert (await bench.analyse()).methods == {"near_duplicate": 2}


async def test_whatever_has_a_denied_hash_is_denied_with_it(bench: Bench, posts: Posts) -> None:
    """Even when the denied picture is gone: such a one neither gives nor takes, and gives back what it took."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    twin, copy = await posts.show(spotted(0, by=1), *copies())
    assert await bench.rows("SELECT count(DISTINCT phash) FROM phash_index WHERE sha256 <> $1", copy) == [(1,)]
    assert (await bench.analyse()).methods == {"near_duplicate": 2}
    assert await deny(bench.world.database, bench.tenant.id, first, reason="never") == 2
    await bench.world.database.pool.execute("DELETE FROM media_objects WHERE sha256 = $1", first)
    assert (await bench.analyse()).methods == {"new": 2}
    assert (copy, twin, "refused", "denied", "normal") in await bench.rows(DECIDED, bench.tenant.id)


async def test_a_pass_takes_back_what_was_denied_while_another_ran(bench: Bench, posts: Posts) -> None:
    """A reuse that was written just after its donor was denied is done again by the next pass."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    await posts.show(*copies())

    class Late(PostgresVision):
        """Reads denials before they are made."""

        async def denials(self, tenant_id: TenantId) -> Denials:
            """Read, then let the operator deny."""
            found = await PostgresVision.denials(self, tenant_id)
            await deny(self.database, tenant_id, first, reason="late")
            return found

    assert (await bench.analyse(ledger=Late(bench.world.database))).methods == {"near_duplicate": 1}
    report = await bench.analyse()
    assert (report.taken_back, report.methods) == (1, {"new": 1})


async def test_a_hash_of_too_many_pictures_quarantines_itself(bench: Bench, posts: Posts) -> None:
    """It neither takes nor gives from then on, and says so among the denials; what an operator allows is allowed."""
    seen = await posts.show(*(spotted(place) for place in range(QUARANTINE_FROM + 1)))
    await bench.analyse()
    assert await bench.rows(DENIED, bench.tenant.id) == []
    [crowded] = await posts.show(photo(320, 240))
    report = await bench.analyse()
    assert (report.analyses, report.quarantined) == (1, 1)
    reason = f"{len(seen)} different pictures within the radius of its hash"
    assert await bench.rows(DENIED, bench.tenant.id) == [(crowded, "quarantine", reason)]
    [copy] = await posts.show(*copies())
    report = await bench.analyse()
    assert report.analyses == 1
    assert ("refused", "quarantined") in report.reuse
    assert crowded in {row[1] for row in await bench.rows(DECIDED, bench.tenant.id) if row[0] == copy}
    assert len(await bench.rows(DECIDED, bench.tenant.id)) <= 8 * (len(seen) + 2)


async def test_no_reuse_without_its_decision(bench: Bench, posts: Posts) -> None:
    """What a pass left in S3 that broke off before the row is decided anew, and both rows come together."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    await bench.analyse()
    await bench.world.database.pool.execute("DELETE FROM vision_results WHERE sha256 = $1", copy)
    await bench.world.database.pool.execute("DELETE FROM reuse_decisions")
    keys = set(await bench.world.keys("vision/"))
    assert (await bench.analyse()).methods == {"near_duplicate": 1}
    assert set(await bench.world.keys("vision/")) == keys
    assert await bench.rows(DECIDED, bench.tenant.id) == [(copy, first, "reused", "same_picture", "normal")]


async def test_a_reuse_is_written_with_its_decision_or_not_at_all(bench: Bench, posts: Posts) -> None:
    """When Postgres does not take the decision, there is no result either, and the picture stays to do."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    await posts.show(*copies())
    await bench.world.database.pool.execute(
        "ALTER TABLE reuse_decisions ADD CONSTRAINT broken CHECK (verdict <> 'reused')"
    )
    assert len((await bench.analyse()).failures) == 1
    assert await bench.rows("SELECT sha256, method FROM vision_results") == [(first, "new")]
    await bench.world.database.pool.execute("ALTER TABLE reuse_decisions DROP CONSTRAINT broken")
    assert (await bench.analyse()).methods == {"near_duplicate": 1}


async def test_a_refusal_that_comes_late_stands_beside_no_reuse(bench: Bench, posts: Posts) -> None:
    """Another worker, which found no donor yet, writes why after the picture has its result: that is not written."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    await bench.analyse()
    decided = await bench.rows("SELECT * FROM reuse_decisions")
    fingerprint = Fingerprint(0, bytes(32), bytes(4096), 1, 1)
    late = [
        Judged(sha256, Neighbour(first, (0, 0), fingerprint, None), Likeness(0, 0, 0.0, 0.0), "strict", "no_result")
        for sha256 in (copy, "0" * 64)  # the other was removed meanwhile
    ]
    await PostgresVision(bench.world.database).record_refusals(
        bench.tenant.id, late, quarantined={}, provider=bench.provider
    )
    assert await bench.rows("SELECT * FROM reuse_decisions") == decided


async def test_an_answer_of_its_own_ends_a_reuse(bench: Bench, posts: Posts) -> None:
    """When the question changes and no other's answer is at hand, what was decided to the old one goes."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    await bench.analyse()
    await bench.world.database.pool.execute("DELETE FROM media_objects WHERE sha256 = $1", first)
    bench.provider.fingerprint = "prompt-2"
    assert (await bench.analyse()).methods == {"new": 1}
    assert bench.provider.calls == [first, copy]
    assert await bench.rows(DECIDED, bench.tenant.id) == []


async def test_a_reuse_replaces_no_answer_that_came_meanwhile(bench: Bench, posts: Posts) -> None:
    """While one worker compares, another one, under other rules, has the picture looked at: that answer stands."""
    [first] = await posts.show(photo(320, 240))
    await bench.analyse()
    [copy] = await posts.show(*copies())

    class Slow(PostgresVision):
        """Is overtaken between the reading of the neighbours and the decision."""

        async def earlier_neighbours(
            self, tenant_id: TenantId, medium: Medium, *, provider: VisionProvider
        ) -> Sequence[Neighbour]:
            """Read, then let the other worker do its pass."""
            found = await PostgresVision.earlier_neighbours(self, tenant_id, medium, provider=provider)
            bench.policy = VisionPolicy(max_pictures_per_post=100, reuse="never")
            assert (await bench.analyse()).methods == {"new": 1}
            return found

    assert (await bench.analyse(ledger=Slow(bench.world.database))).methods == {}
    assert await bench.rows(DONORS, bench.tenant.id) == [(first, "new", None), (copy, "new", None)]
    assert ("reused",) not in await bench.rows("SELECT verdict FROM reuse_decisions")
