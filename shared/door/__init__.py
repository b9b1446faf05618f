"""A gRPC port in a process of its own, before a service that computes.

    client → door (server.py) → frames over a socket (frames.py) → the service's event loop (calls.py) → back

The door refuses what is one call too many in the time that grpc's server takes for it, a fraction of what a grpc.aio
server takes, and whatever the service's interpreter does meanwhile. docs/architecture.md says what it costs.
"""
