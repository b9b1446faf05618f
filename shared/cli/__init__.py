"""The console script."""

import os

# Read by gRPC when it is loaded. Its handlers around fork only complain when we start a process, and its info lines
# are no business of a command's user.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
