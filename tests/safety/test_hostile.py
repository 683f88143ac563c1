"""No file takes more than bounded time and memory, or comes to anything but a result or a clean refusal."""

import pytest

from tests.safety.bounded import verdicts
from tests.safety.hostile import Hostile, all_hostile
from vision_assets.core.media import MAX_IMAGE_BYTES, examine
from vision_assets.core.pictures import decode_upright


@pytest.mark.parametrize("hostile", all_hostile(), ids=lambda hostile: hostile.name)
def test_it_is_refused_for_its_reason_or_taken(hostile: Hostile) -> None:
    """In bounds, examined as a step does and decoded whole, and the reason is the same every time."""
    content = hostile.build()
    assert len(content) <= MAX_IMAGE_BYTES
    looks = (examine, decode_upright)
    # What is taken has a process for each way, so that the peak of one does not hide the other's.
    found = verdicts([content], *looks) if hostile.reason else [verdicts([content], look)[0] for look in looks]
    assert len(found) == len(looks)
    for verdict in found:
        assert verdict.reason == hostile.reason, verdict
        assert verdict.is_within_bounds, verdict
