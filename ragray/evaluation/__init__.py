"""Metrics of retrieval and of answers, and the report about them."""
