"""StarQuant FX inside other tools."""
