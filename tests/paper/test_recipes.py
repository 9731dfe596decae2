"""Recipe cards, each run over its seeds and judged by its own expected interval."""

from __future__ import annotations

import pytest
import torch

from graphsec.recipes import card, cards

pytestmark = pytest.mark.paper


@pytest.mark.parametrize("name", list(cards()))
def test_a_card_holds(name: str) -> None:
    torch.set_num_threads(1)
    results = card(name).matrix().run()
    failed = [record.reason for record in results if record.status != "done"]
    assert not failed, failed[0]
    text, holds = card(name).judge(results)
    print(f"\n{text}")  # noqa: T201
    assert holds, text
