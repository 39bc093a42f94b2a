"""The built-in model's parts before training: tokenizer, autoencoder, text encoder, U-Net and noise schedule."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT = 32  # tokens that the text encoder reads
VOCABULARY = 1024  # tokens at most
END = "</w>"  # of a word
WIDTH = 128  # of the text encoder
LATENT = (8, 8, 8)  # channels, height, width of a 32 x 32 picture


def learn_merges(texts: Iterable[str], n: int) -> list[tuple[str, str]]:
    """At most ``n`` byte-pair merges (Sennrich et al. 2016) of the texts' words, the most frequent pair first.

    Of equally frequent pairs the alphabetically first is taken.  The tokenizers library's own trainer takes
    an arbitrary one, which differs between runs, and the ids of the tokens follow from it.
    """
    frequency = Counter(word for text in texts for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower()))
    words = {word: [*word[:-1], f"{word[-1]}{END}"] for word in frequency}
    merges: list[tuple[str, str]] = []
    while len(merges) < n:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in words.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def build_tokenizer(folder: Path, texts: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are learned from ``texts``; any other text still has its bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(character + END for character in alphabet)]
    merges = learn_merges(texts, VOCABULARY - len(symbols) - 2)
    words = [*symbols, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(dict.fromkeys(words))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=CONTEXT)


def build_vae() -> AutoencoderKL:
    """0.9 million parameters; 32 x 32 x 3 pixels to 8 x 8 x 8 latents."""
    return AutoencoderKL(
        sample_size=32,
        latent_channels=LATENT[0],
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """4.3 million parameters."""
    return UNet2DConditionModel(
        sample_size=LATENT[1],
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        block_out_channels=(96, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        mid_block_type=None,
        layers_per_block=1,
        attention_head_dim=2,  # owing to an old mistake in diffusers, this is the number of heads
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two transformer layers over CONTEXT tokens."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDPMScheduler:
    """The training schedule: cosine, which suits small pictures; the network predicts v."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
    )
