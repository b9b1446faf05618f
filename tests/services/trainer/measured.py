"""A training in a process of its own, so that its peak memory is its own: python -m ... EVENTS FOLDER, prints KiB."""

import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from services.trainer import pipeline
from services.trainer.settings import TrainerSettings
from shared.events import Event
from shared.models import log_store
from shared.space import Attribute, Space
from tests.shared.models.worlds import ATTRIBUTES, SPACE, START, interaction, opinions

EVENTS_OF_A_USER, ITEMS = 10, 300


def events(count: int) -> Iterator[Event]:
    """More users the longer the log, each with as many events; as many items, which are kept in memory, ever."""
    rng = random.Random(1)
    for n in range(count):
        user, item, ts = (
            f"u{rng.randrange(count // EVENTS_OF_A_USER)}",
            f"i{int(rng.paretovariate(1)) % ITEMS}",
            START + 60.0 * n,
        )
        yield interaction(user, item, ts, str(n))
        if rng.random() < 0.3:
            yield opinions(rng, user, item, ts)


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir()
    options = {"newest": 4000, "epochs": 1, "windows": 2, "d": 16}
    settings = TrainerSettings(options={"finestream": options}, models="popularity,finestream", asked=1000)
    defined = Space(SPACE, "test", 12, 4, tuple(Attribute(name, ()) for name in ATTRIBUTES))
    pipeline.train(log_store.write(folder, events(count), SPACE), defined, settings)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
