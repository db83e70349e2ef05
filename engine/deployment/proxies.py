"""Configurations of reverse proxies that let sites reach the fleet path of the server and nothing else."""

from __future__ import annotations

from pathlib import Path
from string import Template

from engine.deployment.federations import Federation
from engine.deployment.settings import split_address

TEMPLATES = Path(__file__).parent / "templates"
QUESTIONS = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "get-run", "pull-messages", "push-messages",
    "pull-object", "push-object", "confirm-message-received",
)  # fmt: skip
"""What ``FleetConnection`` asks of the fleet path; nothing else of it faces the outside."""
SERVER_FILES = {"nginx.conf.template": "nginx.conf", "Caddyfile.template": "Caddyfile"}


def write_proxies(federation: Federation) -> None:
    """Write nginx.conf and Caddyfile into the server's folder; what they name lies beside them."""
    host, public_port = split_address(federation.public_address)
    (federation.server / "temp").mkdir(mode=0o700, exist_ok=True)
    values = {"host": host, "public_port": public_port, "port": federation.port, "questions": "|".join(QUESTIONS)}
    for source, target in SERVER_FILES.items():
        text = Template((TEMPLATES / source).read_text(encoding="utf-8")).substitute(values)
        (federation.server / target).write_text(text, encoding="utf-8")
