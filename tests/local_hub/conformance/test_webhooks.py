"""Webhooks as the client makes, changes and forgets them. Those made here watch nothing that exists."""

import secrets

import pytest
from huggingface_hub import WebhookWatchedItem
from huggingface_hub.errors import HfHubHTTPError


def test_a_webhook_is_made_changed_switched_and_deleted(place) -> None:
    """What is not named in a change stays."""
    watched = [WebhookWatchedItem("model", f"{place.account}/none-{secrets.token_hex(4)}")]
    made = place.api.create_webhook(url="https://example.com/hook", watched=watched, domains=["repo"], secret="s3")
    try:
        assert place.api.get_webhook(made.id) == made and made.watched == watched and not made.disabled
        assert made in place.api.list_webhooks()
        changed = place.api.update_webhook(made.id, url="https://example.com/other", watched=watched)
        assert (changed.url, changed.watched, changed.domains) == ("https://example.com/other", watched, ["repo"])
        assert place.api.disable_webhook(made.id).disabled
        assert not place.api.enable_webhook(made.id).disabled
    finally:
        place.api.delete_webhook(made.id)
    assert made.id not in [webhook.id for webhook in place.api.list_webhooks()]
    with pytest.raises(HfHubHTTPError):
        place.api.get_webhook(made.id)
