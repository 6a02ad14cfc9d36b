"""The recipe of the bundled model, in the order of its work: corpus, tokenizer, tasks, rows, planting, trainer."""
