"""Tests of the console: in a real browser, and by a plain HTTP client."""
