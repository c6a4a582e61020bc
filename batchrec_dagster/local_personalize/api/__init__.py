"""The wire: requests, validation, signatures, server and client."""
