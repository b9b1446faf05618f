"""A bare grpc.aio server: python -m tests.bench.echo FILE answers every call with the bytes in FILE.

No message is parsed and none is made. Prints its port. It is what any Python gRPC service pays at least.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop

METHOD: Final = "/bench.Echo/Call"


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, answer: bytes) -> None:
        async def call(_request: bytes, _context: Any) -> bytes:
            return answer

        self._handler = grpc.unary_unary_rpc_method_handler(call)

    def service(self, _details: Any) -> Any:
        return self._handler


async def serve(answer: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Echo(answer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        uvloop.run(serve(Path(sys.argv[1]).read_bytes()))
    except KeyboardInterrupt:
        sys.exit(130)  # told by the one who started us
