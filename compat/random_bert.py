"""Writes a tiny BERT with random weights to the folder named on the command line. Runs in infinity's environment."""

from __future__ import annotations

import string
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

WIDTH = 64
MAX_TOKENS = 128


def main(folder: Path) -> None:
    """Write vocabulary, configuration and weights; the same ones each time."""
    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(vocabulary), model_max_length=MAX_TOKENS).save_pretrained(folder)
    # With the usual, small initial weights the vectors of all texts would be nearly the same.
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
