"""services/ranking/graph.py: what is asked of graph_updater, and what counts as its answer."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.ranking.graph import Graph
from shared.errors import Unavailable
from shared.pb.finestream.v1 import graph_pb2
from shared.rpc import channel
from shared.settings import GrpcSettings
from tests.services.ranking.doubles import GraphDouble, serving, user_of


class Astray(GraphDouble):
    """Answers in another order than it was asked."""

    async def GetUsers(self, request: Any, context: Any) -> Any:
        answer = await super().GetUsers(request, context)
        return graph_pb2.GetUsersResponse(users=reversed(answer.users))


@pytest.fixture(params=[GraphDouble, Astray], ids=["in order", "astray"])
async def double(request: pytest.FixtureRequest) -> AsyncIterator[GraphDouble]:
    async with serving(request.param()) as served:
        yield served


async def test_states_come_in_the_order_asked_for_and_any_other_is_no_answer(double: GraphDouble) -> None:
    double.put(user_of("a", ["i1"]))
    async with channel(f"127.0.0.1:{double.port}", GrpcSettings()) as connection:
        if isinstance(double, Astray):
            with pytest.raises(Unavailable, match="other nodes"):
                await Graph(connection).users(["a", "nobody"], "", 5.0)
        else:
            known, unknown = await Graph(connection).users(["a", "nobody"], "", 5.0)
            assert (known.id, known.found, known.version) == ("a", True, 1)
            assert (unknown.id, unknown.found) == ("nobody", False)
