"""Views of the facts: an HTML page, and the output of commands in a terminal."""
