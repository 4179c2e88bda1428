"""How outputs become numbers."""
