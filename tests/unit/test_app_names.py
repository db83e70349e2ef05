"""Names and addresses of the page, and of those who ask: what a Host header may be, what is counted of an address."""

from __future__ import annotations

from typing import Any

import pytest

from app.access import Hosts, household, is_trusted_proxy
from app.settings import Settings

OPEN = {"host": "0.0.0.0"}


@pytest.mark.parametrize(("given", "good", "bad"), [
    ({}, ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860"],
     ["", "evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:80",
      "localhost:1@evil.example", "localhost:</script>", "localhost:7860/x", "[::1]@evil.example", "[::1",
      "[localhost]", "localhost:7860, evil.example", "localhost evil.example", "localhost:"]),
    ({**OPEN, "allowed_hosts": "studio.example.org,*.lab.example"},
     ["studio.example.org:443", "a.lab.example", "10.1.2.3:7860", "[fe80::1]:80", "localhost"],
     ["evil.example", "lab.example", "xlab.example", "studio.example.org.evil.example"]),
    ({**OPEN, "space": "me/it"}, ["me-it.hf.space"], ["hf.space.evil.example", "xhf.space"]),
])  # fmt: skip
def test_only_the_pages_own_names_will_do(given: dict[str, Any], good: list[str], bad: list[str]) -> None:
    hosts = Hosts.of(Settings.model_validate(given))
    assert [host for host in good if not hosts.know(host)] == []
    assert [host for host in bad if hosts.know(host)] == []


def test_a_proxy_is_known_by_its_address() -> None:
    proxies = ("10.0.0.1", "172.16.0.0/12", "::1")
    assert all(is_trusted_proxy(address, proxies) for address in ("10.0.0.1", "172.20.3.4", "::1"))
    assert not any(is_trusted_proxy(address, proxies) for address in ("10.0.0.2", "172.32.0.1", "unknown", ""))


@pytest.mark.parametrize(("address", "counted"), [
    ("10.0.0.9", "10.0.0.9"), (" 10.0.0.9:50123 ", "10.0.0.9"), ("::ffff:10.0.0.9", "10.0.0.9"),
    ("2001:db8:1:2:a:b:c:d", "2001:db8:1:2::/64"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
    ("[2001:db8:1:2::2]:443", "2001:db8:1:2::/64"), ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
    ("unknown", "unknown"), ("x" * 99, "x" * 60),
])  # fmt: skip
def test_one_customer_of_a_provider_is_one_address(address: str, counted: str) -> None:
    assert household(address) == counted
