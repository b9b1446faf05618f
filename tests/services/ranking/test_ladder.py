"""services/ranking/stages/ladder.py: every rung but the full one says why."""

import pytest

from services.ranking.facts import Facts
from services.ranking.generation import Generation, Release
from services.ranking.graph import Node
from services.ranking.job import CACHED, FULL, POPULAR, Hydrated, Job
from services.ranking.requests import Query
from services.ranking.stages import ladder
from shared.graph.state import to_bytes
from tests.services.ranking.doubles import NOW, DotModel, item_of, user_of

KNOWN = Node("u", to_bytes(user_of("u", ["i1"])), 1)
ELSEWHERE = Node("u", to_bytes(user_of("u", ["gone"])), 1)
NOBODY = Node("u", b"", 0)


@pytest.mark.parametrize(
    ("hydrated", "context", "model", "rung", "reason"),
    [
        (Hydrated(KNOWN, ""), (), True, FULL, ""),
        (Hydrated(NOBODY, ""), ("i1",), True, FULL, ""),
        (Hydrated(KNOWN, ""), (), False, POPULAR, ladder.NO_MODEL),
        (Hydrated(NOBODY, ""), (), True, POPULAR, ladder.UNKNOWN),
        (Hydrated(ELSEWHERE, ""), (), True, POPULAR, ladder.NO_KNOWN_ITEM),
        (Hydrated(NOBODY, ""), ("gone",), True, POPULAR, ladder.NO_KNOWN_ITEM),
        (Hydrated(KNOWN, "", fresh=False), (), True, CACHED, ladder.SILENT_CACHED),
        (Hydrated(None, "", fresh=False), ("i1",), True, CACHED, ladder.SILENT_CONTEXT),
        (Hydrated(None, "", fresh=False), (), True, POPULAR, ladder.SILENT_UNKNOWN),
    ],
)
def test_each_rung_has_its_reason(
    hydrated: Hydrated, context: tuple[str, ...], model: bool, rung: int, reason: str
) -> None:
    generation = Generation(Release("v", DotModel()) if model else Release())
    generation.facts = Facts()
    generation.facts.put([item_of("i1")])
    job = Job(Query("u", 1, context=context), 0.0, hydrated=hydrated)
    ladder.place([job], generation, NOW)
    assert (job.rung, job.reason) == (rung, reason)
