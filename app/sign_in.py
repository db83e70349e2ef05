"""Signing in and out: one plain page without scripts, and wrong passwords that become slow."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import MutableMapping
from html import escape
from typing import Any
from urllib.parse import parse_qs

from cachetools import TTLCache

from app import text
from app.access import Visitor
from app.event_checks import Refusal
from app.users import User, Users

SESSION_HOURS = 12
"""How long a cookie is believed."""
PATH, PATH_OUT = "/sign-in", "/sign-out"
FREE_TRIES, FREE_TRIES_OF_ADDRESS = 5, 25
"""Wrong passwords for a name from an address, and of an address (many people may share one), before it has to wait
(ours)."""
WAIT_S = 15 * 60
MAX_FORM_BYTES = 4096

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#f8fafc, #0b1220);
  color: light-dark(#0f172a, #f1f5f9); }
main { width: min(92vw, 340px); padding: 24px; border: 1px solid light-dark(#cbd5e1, #334155); border-radius: 10px;
  background: light-dark(#fff, #111a2e); box-sizing: border-box; }
h1 { font-size: 1.35rem; margin: 0 0 4px; } p { margin: 0 0 12px; }
label { display: block; margin: 12px 0 4px; font-weight: 600; }
input { width: 100%; box-sizing: border-box; font: inherit; padding: 9px; border-radius: 6px;
  border: 1px solid light-dark(#64748b, #94a3b8); background: transparent; color: inherit; }
button { margin-top: 18px; width: 100%; font: inherit; font-weight: 600; padding: 10px; border: 0; border-radius: 6px;
  background: #0f766e; color: #fff; cursor: pointer; }
:is(input, button):focus-visible { outline: 3px solid #0ea5e9; outline-offset: 2px; }
.wrong { border-left: 5px solid #b91c1c; padding: 6px 10px; background: light-dark(#fef2f2, #3b1518); }
"""


def page(*, wrong: str = "", name: str = "") -> str:
    """Return the sign-in page, with a sentence on what was wrong."""
    told = f"<p class='wrong' role='alert'>{escape(wrong)}</p>" if wrong else ""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{text.SIGN_IN} · {text.TITLE}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head><body><main>"
        f"<h1>{text.TITLE}</h1><p>{text.SIGN_IN_LEAD}</p>{told}<form method='post' action='{PATH}'>"
        f"<label for='name'>{text.SIGN_IN_NAME}</label><input id='name' name='name' autocomplete='username' required "
        f"maxlength='100' value='{escape(name, quote=True)}' {'' if name else 'autofocus'}>"
        f"<label for='password'>{text.SIGN_IN_PASSWORD}</label><input id='password' name='password' type='password' "
        f"autocomplete='current-password' required maxlength='256' {'autofocus' if name else ''}>"
        f"<button>{text.SIGN_IN}</button></form></main></body></html>"
    )


class SignIn:
    """Who is signed in, by the users file and the session's cookie."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._wrong: TTLCache[str, int] = TTLCache(maxsize=20_000, ttl=WAIT_S, timer=time.monotonic)
        self._ended: TTLCache[str, bool] = TTLCache(maxsize=20_000, ttl=3600 * SESSION_HOURS, timer=time.monotonic)
        self._lock = threading.Lock()

    def visitor(self, session: MutableMapping[str, Any]) -> Visitor | None:
        """Return who a session belongs to; None where nobody is signed in, or the password has changed since."""
        name = session.get("user")
        user = self._users.find(name) if isinstance(name, str) else None
        if user is None or session.get("of") != _fingerprint(user) or session.get("id", "") in self._ended:
            return None
        return Visitor(f"user:{user.name}", user.name, user.role)

    def end(self, session: MutableMapping[str, Any]) -> None:
        """Sign out: the session is over, and with it every copy of its cookie, for as long as that would be believed.

        The page knows that until it is started anew.
        """
        if session.get("id"):
            self._ended[session["id"]] = True
        session.clear()

    def check(self, form: bytes, *, address: str) -> tuple[dict[str, str], str]:
        """Return (what to put into the session, the name given); raises :class:`Refusal` 401 or 429.

        Slow on purpose (a hash of a password): not for the event loop.
        """
        fields = fields_of(form)
        name, password = (fields.get(key, "") for key in ("name", "password"))
        counted = {f"address {address}": FREE_TRIES_OF_ADDRESS, f"name {name[:100]} {address}": FREE_TRIES}
        with self._lock:  # before the password is looked at, which takes long: tries at a time are tries, too
            if any(self._wrong.get(key, 0) >= most for key, most in counted.items()):
                raise Refusal(429, text.SIGN_IN_SLOW.format(minutes=WAIT_S // 60), retry_s=WAIT_S)
            for key in counted:
                self._wrong[key] = self._wrong.get(key, 0) + 1
        user = self._users.verify(name, password)
        if user is None:
            raise Refusal(401, text.SIGN_IN_WRONG)
        with self._lock:
            for key in counted:
                self._wrong[key] = max(0, self._wrong.get(key, 0) - 1)
        return {"user": user.name, "of": _fingerprint(user), "id": secrets.token_urlsafe(12)}, user.name


def fields_of(form: bytes) -> dict[str, str]:
    """Return the fields of a sign-in form by name, each as it was given first; none of what is no such form."""
    try:
        given = parse_qs(form.decode("utf-8", "replace"), max_num_fields=4) if len(form) <= MAX_FORM_BYTES else {}
    except ValueError:  # more fields than that
        return {}
    return {name: values[0] for name, values in given.items()}


def _fingerprint(user: User) -> str:
    """Return what changes with the password: older sessions end with it."""
    return hashlib.sha256(user.password_hash.encode()).hexdigest()[:24]
