"""All that the emulated GigaChat knows, in memory.

What does not belong here: what is done with it.
"""

import random
from dataclasses import dataclass, field

from vision_assets.devstack.gigachat_access import Streams, Tokens
from vision_assets.devstack.gigachat_books import Books
from vision_assets.devstack.gigachat_faults import Faults
from vision_assets.devstack.gigachat_files import Files
from vision_assets.devstack.gigachat_options import Options


@dataclass(slots=True)
class State:
    """All that the emulator knows. A reset makes another; a call that is under way stays with its own.

    Attributes:
        prompts: Messages of the last chat by account and `X-Session-ID`, for what is cached of the next prompt.
    """

    options: Options
    tokens: Tokens = field(default_factory=Tokens)
    streams: Streams = field(default_factory=Streams)
    faults: Faults = field(default_factory=Faults)
    books: Books = field(default_factory=Books)
    files: Files = field(default_factory=Files)
    prompts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    latencies: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.set_options(self.options)

    def set_options(self, options: Options) -> None:
        """Let these options be in force; latencies are drawn from the seed's beginning."""
        self.options = options
        self.latencies = random.Random(options.seed)  # noqa: S311 - no secret
