"""ragray turns FAQ and documents into an assistant that answers from them, every step on Ray."""

__version__ = "0.1.0"
