"""The same running system as the e2e tests have."""

from tests.e2e.conftest import system  # noqa: F401  # a fixture
