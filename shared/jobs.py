"""What jobs have in common: they wait for what does not answer, though not for ever, and end with a sentence."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

from aiokafka.errors import KafkaError

from shared import logs
from shared.archive import BadArchive
from shared.errors import FinestreamError, Unavailable
from shared.service import WrongSetting

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before what does not answer is asked again
T = TypeVar("T")
log = logs.get(__name__)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives; Unavailable is raised when it is so after all pauses."""
    for pause in PAUSES:
        try:
            return await call()
        except Unavailable as error:
            log.warning("no answer; asking again", error=str(error), pause_seconds=pause)
            await asyncio.sleep(pause)
    return await call()


@contextmanager
def ending() -> Iterator[None]:
    """A whole job. Exit codes: 2 for a wrong setting; 1 where something does not answer or cannot be read."""
    try:
        yield
    except WrongSetting as error:
        end(str(error), 2)
    except (FinestreamError, BadArchive, OSError) as error:
        end(str(error), 1)
    except KafkaError as error:
        end(f"Kafka: {type(error).__name__}: {error}", 1)


def end(sentence: str, code: int) -> NoReturn:
    """One line for a person, and the exit code."""
    print(f"finestream: {sentence}", file=sys.stderr)  # noqa: T201  # a log line may be JSON
    raise SystemExit(code)
