"""Measurements: CPU time of pgcdc and of its peers on the same bytes, in the same run. `./dev bench [NAME]`."""
