"""ExtractorService: pairs of a text, ad hoc."""

from typing import Any, Final

from services.extractor.extraction import Extraction
from shared.errors import InvalidRequest
from shared.events import MAX_TEXT_BYTES, Pair
from shared.pb.finestream.v1 import extractor_pb2, extractor_pb2_grpc

SERVICE_NAME: Final = "finestream.v1.ExtractorService"
_POLARITY: Final = {
    -1: extractor_pb2.POLARITY_NEGATIVE,
    0: extractor_pb2.POLARITY_NEUTRAL,
    1: extractor_pb2.POLARITY_POSITIVE,
}


class ExtractorService(extractor_pb2_grpc.ExtractorServiceServicer):
    def __init__(self, extraction: Extraction, version: int) -> None:
        self._extraction = extraction
        self._version = version

    async def Extract(  # noqa: N802  # named by the protocol
        self, request: extractor_pb2.ExtractRequest, context: Any
    ) -> extractor_pb2.ExtractResponse:
        """Raises InvalidRequest for no text or too much of it, Unavailable when the provider does not answer."""
        size = len(request.text.encode())
        if size > MAX_TEXT_BYTES:
            raise InvalidRequest(f"text has {size} bytes; at most {MAX_TEXT_BYTES} are taken", "text")
        if not request.text.strip():
            raise InvalidRequest("text is empty; send the words of a review", "text")
        [extracted] = await self._extraction.pairs([request.text])
        return extractor_pb2.ExtractResponse(
            pairs=[_message(pair) for pair in extracted.pairs], extractor=f"{extracted.extractor} v{self._version}"
        )


def _message(pair: Pair) -> extractor_pb2.Pair:
    return extractor_pb2.Pair(
        attribute=pair.attribute,
        opinion=pair.phrase,
        polarity=_POLARITY[pair.polarity],
        start=pair.start,
        end=pair.end,
        quote=pair.quote,
    )
