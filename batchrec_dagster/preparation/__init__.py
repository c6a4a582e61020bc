"""From a ratings file, wherever it is, to interactions and users."""
