"""What a generation may cost."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hub_fusion.recipe.section import Section


class Budget(Section):
    """What may be spent on one generation, over all rounds that try to make it; null: any amount."""

    seconds: float | None = Field(None, gt=0, description="of fusing and measuring")
    bytes: int | None = Field(None, gt=0, description="downloaded")
    money: float | None = Field(None, gt=0, description="by price_per_hour, in its currency")
    price_per_hour: float = Field(0.0, ge=0, description="of the machine that fuses and measures")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.money is not None and not self.price_per_hour:
            raise ValueError("budget.money is counted by budget.price_per_hour, which is 0: set it")
        return self
