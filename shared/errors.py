"""Every error that crosses a module or a wire.

FinestreamError
├── InvalidRequest      the caller must change something; says what        INVALID_ARGUMENT
├── NotFound            what was named does not exist                      NOT_FOUND
├── Unauthenticated     no token, or a wrong one                           UNAUTHENTICATED
├── PermissionDenied    a token that is valid, and not for this            PERMISSION_DENIED
├── FailedPrecondition  not now: the system must be changed first          FAILED_PRECONDITION
├── Overloaded          refused at once, try again with back-off           RESOURCE_EXHAUSTED
├── DeadlineExceeded    the caller's time was too short                    DEADLINE_EXCEEDED
└── Unavailable         a part we need does not answer; may succeed later  UNAVAILABLE
"""


class FinestreamError(Exception):
    """The root; its message is a sentence for the caller."""


class InvalidRequest(FinestreamError):
    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(FinestreamError):
    pass


class Unauthenticated(FinestreamError):
    pass


class PermissionDenied(FinestreamError):
    pass


class FailedPrecondition(FinestreamError):
    pass


class Overloaded(FinestreamError):
    pass


class DeadlineExceeded(FinestreamError):
    pass


class Unavailable(FinestreamError):
    pass
