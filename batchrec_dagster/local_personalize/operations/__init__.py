"""The operations of the API, with a module for each kind of resource or job."""
