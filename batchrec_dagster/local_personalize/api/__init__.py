"""The HTTP API: requests, their validation and signatures, the server and the embedded client."""
