"""Tests of the places where people use the lists."""
