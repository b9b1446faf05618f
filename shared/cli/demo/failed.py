"""Why a demo ended early."""


class DemoFailed(Exception):
    """The message is what the operator reads."""
