"""The server's certificate expires: sites wait and say why, and go on by themselves once it has been renewed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.deployment import certificates
from engine.federation.rounds import run_rounds
from tests.deployment.deployed import deployed
from tests.patience import WAIT_S, wait

VALID_S = 40.0


@pytest.mark.slow
@pytest.mark.timeout(8 * WAIT_S)
def test_an_expired_certificate_is_named_and_a_renewed_one_needs_nobody_at_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployed(tmp_path / "world", sites=("north",)) as world:
        folder, crt = world.federation_folder, world.federation.server / "server.crt"
        with monkeypatch.context() as short:
            short.setattr(certificates, "SERVER_DAYS", VALID_S / 86400)
            assert main(["federation", "renew", str(folder)]) == 0
        server = world.start_server()
        assert "expires in 0 days" in server.said()
        site = world.start_site("north")
        site.wait_for("Connected to the server")
        site.kill()
        wait(lambda: certificates.validity(crt).ends < datetime.now(UTC))

        site = world.start_site("north")
        site.wait_for("has expired. Trying again every 10 s.")
        assert site.process.poll() is None
        server.terminate()
        refused = world.start("server", "up", str(folder), name="refused")
        assert refused.process.wait(timeout=WAIT_S) == 2
        assert "deployment.certificate" in refused.said() and f"federation renew {folder}" in refused.said()

        assert main(["federation", "renew", str(folder)]) == 0
        world.start_server()
        wait(lambda: world.online() == {"north"})
        assert site.process.poll() is None
        with world.grid() as grid:
            found = run_rounds(grid, arrays={"a": np.zeros(2, np.float32)}, sites=("north",), rounds=1, wait_s=WAIT_S)
        assert np.allclose(found["a"], np.sin(2.0), atol=1e-6), "sin(0 + mean * round) of numbers of mean 2"
