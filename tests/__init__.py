import os

# As shared/local/child.py, which comes too late here: what is imported first imports gRPC. Its fork handlers run in the
# copies of us that become services, and now and then abort one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
