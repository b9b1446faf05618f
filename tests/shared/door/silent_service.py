"""python -m tests.shared.door.silent_service: a service with a door that never answers. Prints its port."""

import asyncio
from typing import Any

from shared.door.calls import open_door
from shared.pb.finestream.v1 import extractor_pb2_grpc
from shared.service import Health
from shared.settings import ServiceSettings

PLACES = 8


class Silent(extractor_pb2_grpc.ExtractorServiceServicer):
    async def Extract(self, request: Any, context: Any) -> Any:
        print("asked", flush=True)
        await asyncio.Event().wait()


def register(server: Any) -> None:
    extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(Silent(), server)


async def serve() -> None:
    door = await open_door(ServiceSettings(log_level="error"), "silent", register, Health(), PLACES, lambda _: None)
    print(door.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
