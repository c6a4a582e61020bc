"""Tests of a team's nights: a first run, a refused run, a kill, an erasure."""
