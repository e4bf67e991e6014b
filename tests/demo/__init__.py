"""Tests of `pgcdc demo`."""
