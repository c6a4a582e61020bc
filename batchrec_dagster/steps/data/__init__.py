"""The data of a night: raw files, interactions, items, users and recipients."""
