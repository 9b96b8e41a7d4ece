"""The tokens that contributions bring, where the recipe keeps them: which, whose, and what may not enter the base.

What is wrong with them refuses the contribution, since its weights were trained with them. What merely cannot be kept
(nobody says which tokens the rows are, or a head of the base has no row for them) is left out, as without ``keep``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HubError, HubUnreachable, RecipeError, WeightsError
from hub_fusion.events import Say
from hub_fusion.records import AddedToken, Contribution, Refusal
from hub_fusion.weights.tokens import TOKENIZER, NewTokens, Tokenizer, find, read_tokenizer, shadows, within_bounds
from hub_fusion.weights.vocabulary import rows_in

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.weights.checkpoint import Checkpoint
    from hub_fusion.weights.deltas import Deltas

FIX = "Add tokens with the tokenizer's add_tokens alone, few and plain ones, and train their rows; or add none."


def most_bytes(base: int) -> int:
    """How large a contribution's tokenizer.json may be where the base's has so many bytes: it may be indented."""
    return 3 * base + 1_000_000


def judge_tokenizer(c: Contribution, text: str, origin: Tokenizer) -> tuple[list[AddedToken], Refusal | None]:
    """The tokens that a contribution's tokenizer.json adds to its generation's; or why they may not be."""
    try:
        found, fault = find(Tokenizer.parse(text, f"{c.repo}/{TOKENIZER}"), origin, c.key)
    except WeightsError as error:
        found, fault = [], f"{error}."
    return found, c.refuse("screen", "unusable_tokens", fault, FIX) if fault else None


@dataclass
class TokenScreen:
    """The parent's tokens, and what the contributions of a round bring beyond them."""

    base: Checkpoint
    tokenizer: Tokenizer
    most: int  # bytes of a contribution's tokenizer
    longest: dict[str, float]  # vocabulary's tensor → norm of its longest row
    say: Say
    brought: dict[str, tuple[AddedToken, ...]] = field(default_factory=dict)

    @classmethod
    def open(cls, base: Checkpoint, folder: Path, say: Say) -> TokenScreen:
        """Raises RecipeError for a base that new tokens cannot be put into."""
        from hub_fusion.weights.added_rows import longest_row, vocabulary_names

        tokenizer, names = read_tokenizer(folder), vocabulary_names(base)
        if tokenizer is None or not names:
            raise RecipeError(f"merge.vocab is keep, but the base has no {TOKENIZER} or no embeddings of tokens: add "
                              "one (AutoTokenizer.save_pretrained writes it), or set it to drop")  # fmt: skip
        if tokenizer.next_id > rows_in(base[names[0]]):
            raise RecipeError(
                f"merge.vocab is keep, but the base's {TOKENIZER} knows {tokenizer.next_id} tokens and "
                f"{names[0]} has {rows_in(base[names[0]])} rows: resize it, or set it to drop"
            )
        longest = {name: longest_row(base, name, rows_in(base[name])) for name in names}
        return cls(base, tokenizer, most_bytes((folder / TOKENIZER).stat().st_size), longest, say)

    def look(self, hub: Hub, c: Contribution, d: Deltas, origin: Path) -> Refusal | None:
        """Remember what a contribution brings; why it may not, if so. Raises HubUnreachable."""
        from hub_fusion.weights.added_rows import rows_fault, rows_of

        if c.relation != "finetune":
            return None
        try:
            if TOKENIZER not in hub.files(c.repo, c.sha):
                return None
            text = hub.read_text(c.repo, TOKENIZER, revision=c.sha, max_bytes=self.most)
        except HubUnreachable:
            raise
        except HubError as error:
            return c.refuse("screen", "unusable_tokens", f"{error}.", FIX)
        found, refusal = judge_tokenizer(c, text, read_tokenizer(origin) or self.tokenizer)
        if refusal:
            return refusal
        tokens = tuple(token for token in found if token.content not in self.tokenizer.ids)
        if tokens:
            lacking = [n for n in self.longest if rows_of(d, n) <= max(t.rows[c.key] for t in tokens)]
            if lacking:
                self.say(f"  its {len(tokens)} new tokens are left out: it has no rows of them in {lacking[0]}")
                return None
            if fault := shadows([t.content for t in tokens], self.tokenizer):  # what has come since its generation
                return c.refuse("screen", "unusable_tokens", fault, FIX)
            if reason := rows_fault(d, tokens, self.longest):
                return c.refuse("screen", "unusable_tokens", f"It adds tokens, and {reason}.", FIX)
        if tokens:
            self.say(f"  brings {len(tokens)} new tokens")
            self.brought[c.key] = tokens
        return None

    def tokens(self, kept: list[str]) -> NewTokens:
        """What those who passed the screen bring."""
        brought = {key: self.brought[key] for key in kept if key in self.brought}
        taken = within_bounds(brought)
        for key in sorted(set(brought) - set(taken)):
            self.say(f"{key}: its new tokens are left out, as others bring as many as one generation takes in")
        return NewTokens(self.tokenizer.next_id, taken)
