"""The tokenizer: CLIP's kind, with every word of the captions one token and every other word spelt out.

Written in the file format of transformers' CLIPTokenizer, so that pipelines load it like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from . import captions, spec

LENGTH = 32  # tokens of a caption with its start and end, padded with the end token
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> list[str]:
    """All words that captions.py writes, sorted."""
    phrases: list[str] = [*spec.COLOURS, *spec.KINDS, *captions.OPENINGS, "a an and with"]
    for table in (
        captions.PLACE_PHRASES,
        captions.AFLOAT,
        captions.OVERHEAD,
        captions.WEATHER_PHRASES,
        captions.SIZE_WORDS,
    ):
        phrases += [phrase for group in table.values() for phrase in group]
    phrases += captions.SIDE_PHRASES.values()
    return sorted({word for phrase in phrases for word in phrase.split()})


def write_tokenizer(folder: Path) -> None:
    """Writes vocab.json, merges.txt and the two configuration files into the folder."""
    words = vocabulary()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    # Rare letters also stand at a word's end, so that unknown words can be spelt.
    tokenizer.train_from_iterator([*words, *letters], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = {piece: i for i, piece in enumerate([*pieces, START, END])}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, indent=0) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


class Words:
    """Encodes captions of known words, the same as the tokenizer but faster."""

    def __init__(self, folder: Path) -> None:
        vocab = json.loads((folder / "vocab.json").read_text())
        self.size = len(vocab)
        self.start, self.end = vocab[START], vocab[END]
        self._ids = {word: vocab[f"{word}</w>"] for word in vocabulary()}

    def encode(self, texts: Sequence[str]) -> NDArray[np.int16]:
        """int16 [len(texts), LENGTH]; KeyError for a word that is not in the vocabulary."""
        tokens = np.full((len(texts), LENGTH), self.end, np.int16)
        tokens[:, 0] = self.start
        for row, text in zip(tokens, texts):
            ids = self._encode_one(text.split())
            row[1 : 1 + len(ids)] = ids
        return tokens

    def _encode_one(self, words: Iterable[str]) -> list[int]:
        return [self._ids[word] for word in words][: LENGTH - 2]
