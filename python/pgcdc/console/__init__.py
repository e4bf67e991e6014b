"""Pages in a browser: slots, consumers, tables, dead letters, schemas, event streams; pgcdc[console]."""

from pgcdc.console.application import Console
from pgcdc.console.serving import PORT, Serving, parse_address
from pgcdc.console.subject import Subject

__all__ = ["PORT", "Console", "Serving", "Subject", "parse_address"]
