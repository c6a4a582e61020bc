"""What happens to a team over nights: a first run, a refused one, a kill, an erasure."""
