"""The demo guard judged by Transformers 4.53.3 in float32: the figures everything else is compared with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import MllamaForConditionalGeneration, MllamaImageProcessor

from training.demo_tokenizer import IMAGE_ID, render
from training.mllama_reference import correct_rule_6

_LONGEST_ANSWER = 40


@dataclass(frozen=True)
class Judgement:
    """What the reference says about one picture and conversation."""

    score: float
    answer_mass: float
    unsafe: bool
    answer: str
    categories: tuple[str, ...]
    prompt: tuple[int, ...]

    @property
    def prompt_sha256(self) -> str:
        """The first 16 digits of the hash of the prompt's token ids, written in decimal with blanks between."""
        return hashlib.sha256(" ".join(map(str, self.prompt)).encode()).hexdigest()[:16]


class ReferenceGuard:
    """A checkpoint folder, run by Transformers with rule 6 corrected."""

    def __init__(self, folder: Path) -> None:
        """Load the weights as they were shipped, computed with in float32."""
        model = MllamaForConditionalGeneration.from_pretrained(
            folder, torch_dtype=torch.float32, attn_implementation="eager"
        )
        self.model = correct_rule_6(model).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.images = MllamaImageProcessor.from_pretrained(folder)
        self.safe, self.unsafe = (self.tokenizer.token_to_id(word) for word in ("safe", "unsafe"))
        self.end = self.tokenizer.token_to_id("<|eot_id|>")

    @torch.no_grad()
    def image_states(self, image: Image.Image) -> tuple[torch.Tensor, int]:
        """Return the projected image tokens, as cross-attention takes them, and the number of real tiles."""
        inputs = self.images(images=[[image]], return_tensors="pt")
        features = self.model.model.vision_model(
            inputs["pixel_values"], inputs["aspect_ratio_ids"], inputs["aspect_ratio_mask"]
        ).last_hidden_state
        states = self.model.model.multi_modal_projector(features)
        return states.reshape(-1, states.shape[-2], states.shape[-1]), int(inputs["num_tiles"][0][0])

    def _next(self, ids: list[int], image: tuple[torch.Tensor, int] | None) -> torch.Tensor:
        tokens = torch.tensor([ids])
        options: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}
        if image is not None:
            mask = torch.zeros(1, len(ids), 1, 4, dtype=torch.long)
            mask[0, ids.index(IMAGE_ID) :, 0, : image[1]] = 1
            options |= {"cross_attention_states": image[0], "cross_attention_mask": mask}
        return self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **options).logits[0, -1].float()

    @torch.no_grad()
    def judge(
        self,
        messages: list[dict[str, Any]],
        image: tuple[torch.Tensor, int] | None,
        excluded: tuple[str, ...] = (),
        *,
        decode: bool = True,
    ) -> Judgement:
        """Score the verdict and, where `decode` is set, write the answer greedily."""
        prompt = self.tokenizer.encode(render(messages, excluded), add_special_tokens=False).ids
        chances = self._next(prompt, image).softmax(-1)
        safe, unsafe = float(chances[self.safe]), float(chances[self.unsafe])
        written: list[int] = []
        token = int(chances.argmax())
        while decode and token != self.end and len(written) < _LONGEST_ANSWER:
            written.append(token)
            token = int(self._next(prompt + written, image).argmax())
        answer = self.tokenizer.decode(written)
        _, _, listed = answer.partition("\n")
        return Judgement(
            score=unsafe / (safe + unsafe),
            answer_mass=safe + unsafe,
            unsafe=unsafe >= safe,
            answer=answer,
            categories=tuple(code for code in listed.split(",") if code),
            prompt=tuple(prompt),
        )
