"""The hybrid retriever: analyzer, postings, TF-IDF, BM25, reciprocal rank fusion, index, confidence."""
