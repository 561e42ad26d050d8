"""The package's version, stated once: the build reads it from here. Nothing else belongs here."""

__version__ = "0.1.0"
