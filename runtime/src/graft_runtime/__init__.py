"""The part of graft that ships to the client: decode a picture, read a model's card, decide. Never torch."""

__version__ = "0.1.0.dev0"
