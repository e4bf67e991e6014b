"""Looking at a server, its slots and its pipelines from outside: nobody is told anything, all is asked for."""

from pgcdc.observe.doctor import examine
from pgcdc.observe.finding import Finding, Status
from pgcdc.observe.role import role_sql
from pgcdc.observe.slots import slots

__all__ = ["Finding", "Status", "examine", "role_sql", "slots"]
