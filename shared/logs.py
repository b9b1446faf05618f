"""Structured logs: one JSON object a line on stderr, with the service's name on each."""

import logging
import sys
from typing import Any

import structlog


def configure(service: str, level: str = "info") -> None:
    """Send structlog and the standard library's logging (Faust, aiokafka, grpc) through one JSON renderer."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("aiokafka", "faust", "mode", "httpx", "httpx2", "openai"):
        # Their info lines are one a partition or a request; what matters of it is a metric of ours.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is now, not to what it was when logging was configured (tests replace it)."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


def get(name: str) -> Any:
    """A logger; call it as log.info("what happened", key=value). Never pass secrets or review text."""
    return structlog.stdlib.get_logger(name)
