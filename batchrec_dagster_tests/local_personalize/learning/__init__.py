"""Tests of the learning side: numbers against slow plain versions."""
