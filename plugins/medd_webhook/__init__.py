"""Results to a web service: ``[[destination]] type = "webhook"``."""

from typing import Any

from medd import hookimpl


@hookimpl
def register_destinations() -> list[type[Any]]:
    """The webhook."""
    from medd_webhook.destination import WebhookDestination

    return [WebhookDestination]
