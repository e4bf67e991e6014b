"""Tests of the command `pgcdc`."""
