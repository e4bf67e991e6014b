"""Programs for those who work on pgcdc; nothing of it is installed."""
