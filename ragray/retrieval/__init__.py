"""The hybrid retriever: analyzer, postings, TF-IDF, BM25, fusion, index, confidence."""
