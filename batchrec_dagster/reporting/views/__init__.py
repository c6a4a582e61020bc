"""How facts are shown: as an HTML page, and in a terminal."""
