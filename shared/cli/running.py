"""Runs a command's coroutine; what the operator can do something about is one line on stderr and an exit code."""

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import grpc
import typer
from aiokafka.errors import KafkaError

from shared.errors import FinestreamError
from shared.service import WrongSetting

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], failed: int = 1) -> T:
    """The result; ends the process with code `failed`, or 2 for a wrong setting, and a sentence where there is none."""
    try:
        return asyncio.run(work)
    except WrongSetting as error:
        fail(str(error), 2)
    except grpc.aio.AioRpcError as error:
        fail(f"{error.code().name}: {error.details()}", failed)
    except (FinestreamError, OSError) as error:
        fail(str(error), failed)
    except KafkaError as error:
        fail(f"Kafka: {type(error).__name__}: {error}; is the system up? (finestream up)", failed)


def fail(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(f"finestream: {sentence}", err=True)
    raise typer.Exit(code)
