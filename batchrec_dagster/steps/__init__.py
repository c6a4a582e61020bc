"""The work behind the assets: typed records in, typed records out."""
