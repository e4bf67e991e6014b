"""The real servers that tests run against, each started by a script of its own."""
