"""What the SuperLink back end and a site's connection take from Flower's private parts, pinned to 1.41."""

from __future__ import annotations

import inspect
import zipfile
from io import BytesIO

from flwr.cli.build import build_fab_from_files
from flwr.common.constant import HEARTBEAT_PATIENCE, TIMESTAMP_TOLERANCE, ErrorCode, SubStatus
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import AcquireTaskResponse, PullTaskInputResponse
from flwr.supercore.constant import VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY, TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.supernode.fleet_http_client import FleetHttpClient

from engine.deployment import server
from engine.deployment.federations import Federation
from engine.federation import connection_faults
from engine.federation.backends import superlink
from engine.site.node import RAISED


def test_the_grid_of_a_server_app_is_opened_by_a_token() -> None:
    parameters = inspect.signature(HttpGrid.__init__).parameters
    assert list(parameters) == ["self", "runtime_api_address", "insecure", "root_certificates", "token"]
    grid = HttpGrid("127.0.0.1:1", root_certificates=None, token="a")
    held = {"_addr", "_cert", "_token", "_retry_invoker", "_client", "node"}
    assert held <= set(vars(grid)) and isinstance(grid._retry_invoker, RetryInvoker)
    assert isinstance(inspect.getattr_static(HttpGrid, "_runtime_client"), property)
    assert "self._token" in inspect.getsource(HttpGrid._connect), "the token is read when it connects, not before"


def test_the_clients_have_the_calls_that_we_make() -> None:
    assert {"AcquireTask", "PullTaskInput", "PushTaskOutput", "SendTaskHeartbeat"} <= set(dir(RuntimeHttpClient))
    assert {"StartRun", "StopRun", "ListNodes", "RegisterNode", "UnregisterNode"} <= set(dir(ControlHttpClient))
    fleet = {"ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "GetRun", "PullMessages", "PushMessages"}
    assert {*fleet, "PullObject", "PushObject", "ConfirmMessageReceived"} <= set(dir(FleetHttpClient))
    parameters = inspect.signature(ProtobufClient.from_server_address).parameters
    expected = ["server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"]
    assert list(parameters) == expected


def test_every_fleet_call_is_below_the_path_that_the_proxy_lets_through() -> None:
    paths = {route.path for route in create_app().routes if hasattr(route, "path")}
    source = inspect.getsource(FleetHttpClient)
    assert source.count('path="/v1/fleet/') == source.count("path=")
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task"} <= _all_paths(paths)


def _all_paths(paths: set[str]) -> set[str]:
    from fastapi.routing import iter_route_contexts

    found = {context.route.path for context in iter_route_contexts(create_app().routes)}
    return paths | found | {f"/v1/control{path}" for path in found} | {f"/v1/runtime{path}" for path in found}


def test_messages_have_the_fields_that_we_read() -> None:
    assert {"task", "token"} <= set(AcquireTaskResponse.DESCRIPTOR.fields_by_name)
    assert {"task_id", "run", "context"} <= set(PullTaskInputResponse.DESCRIPTOR.fields_by_name)
    fields = {"node_id", "name", "status", "public_key", "online_until", "heartbeat_interval"}
    assert fields <= set(NodeInfo.DESCRIPTOR.fields_by_name)


def test_the_app_bundle_carries_no_code_that_does_anything() -> None:
    content, _ = build_fab_from_files(superlink._BUNDLE)
    with zipfile.ZipFile(BytesIO(content)) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "nobody.py", "pyproject.toml"]
        assert bundle.read("nobody.py").startswith(b"raise RuntimeError(")
    assert len(content) < 2_000


def test_constants_that_we_repeat() -> None:
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == connection_faults._ACTIVATION_FAILED
    run_state = (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ApiErrorCode.FLEET_GET_RUN_FAILED)
    assert run_state == connection_faults._OTHER_RUN_STATE
    assert connection_faults.CLOCK_S == TIMESTAMP_TOLERANCE
    assert RAISED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert HEARTBEAT_PATIENCE == 2 and TaskType.SERVER_APP == "flwr-serverapp"
    assert (SubStatus.COMPLETED, SubStatus.FAILED) == ("completed", "failed")
    assert VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY == "flwr-version-incompatibility-message"


def test_the_superlink_takes_the_options_that_it_is_started_with(tmp_path) -> None:
    words = server.command(Federation(tmp_path, "a", "a:1", 9093))
    chosen = _parse_args_run_superlink().parse_args(words[1:])
    assert (chosen.isolation, chosen.host, chosen.port) == ("process", "127.0.0.1", 9093)
    assert chosen.enable_supernode_auth and not chosen.insecure and not chosen.runtime_dependency_install
