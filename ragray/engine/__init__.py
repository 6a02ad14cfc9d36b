"""Engines that generate text, what they are built from, and the assistant that answers with them."""
