"""Settings of the page: from the environment (``DSFEDMED_*``), then the command line. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
Access = Literal["auto", "local", "read-only", "demo", "sign-in", "proxy"]


def _listed(value: Any) -> Any:
    """Return the parts of a text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_listed)]


class Settings(BaseSettings):
    """What the page needs to know before it starts; ``PORT`` and ``GRADIO_SERVER_PORT`` are what hosts set."""

    model_config = SettingsConfigDict(env_prefix="DSFEDMED_", frozen=True, extra="ignore", populate_by_name=True)

    home: Path = Field(Path("studio_home"), description="Folder of the runs' database and files")
    host: str = Field(
        "127.0.0.1",
        validation_alias=AliasChoices("DSFEDMED_HOST", "GRADIO_SERVER_NAME"),
        description="Address to listen on; 0.0.0.0 in a container",
    )
    port: int = Field(
        7860,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("DSFEDMED_PORT", "GRADIO_SERVER_PORT", "PORT"),
        description="Port to listen on",
    )
    models_dir: Path = Field(REPOSITORY / "assets" / "models", description="Folder of the shipped model bundles")
    runs_dir: Path = Field(
        REPOSITORY / "assets" / "runs", description="Folder of the finished runs that an empty home begins with"
    )
    refresh_s: float = Field(1.0, gt=0.1, description="Seconds between two reads of the runs' database")
    idle_refresh_s: float = Field(5.0, gt=0.1, description="The same, while the run that is shown is not at work")
    page_size: int = Field(20, ge=4, le=96, description="Samples on one page of the gallery")

    # Who may do what
    access: Access = Field("auto", description="Who may do what; auto decides by the settings below and the address")
    read_only: bool = Field(False, description="Nobody can start, stop or resume a run: the same as access = read-only")
    space: str | None = Field(
        None, validation_alias=AliasChoices("SPACE_ID", "space"), description="Set by Hugging Face: access is demo"
    )
    space_host: str | None = Field(
        None, validation_alias=AliasChoices("SPACE_HOST", "space_host"), description="The name that a Space is known by"
    )
    users_file: Path | None = Field(None, description="Who may sign in, as `python -m app.users` writes it")
    proxy_user_header: str | None = Field(None, description="Header in which a trusted proxy names who is signed in")
    proxy_addresses: Names = Field((), description="Addresses (or networks) of that proxy, separated by commas")
    proxy_operators: Names = Field((), description="Names that are operators behind that proxy; all others are viewers")
    allowed_hosts: Names = Field((), description="Names that the page is known by, such as studio.example.org")
    allowed_roots: Folders = Field((), description="Folders that a page which others can reach may name files below")
    https_only: bool = Field(False, description="Cookies are sent over HTTPS alone: for a page behind a TLS proxy")

    # What one visitor may take
    max_upload_mb: int = Field(64, ge=1, description="Largest accepted image file, megabytes")
    max_image_px: int = Field(8192, ge=64, description="Longest accepted side of an uploaded image, pixels")
    max_read_mb: int = Field(384, ge=16, description="Memory that reading one uploaded image may take, megabytes")
    visitor_files: int = Field(12, ge=1, description="Uploaded files that one visitor may have at a time")
    visitor_mb: int = Field(256, ge=1, description="Bytes that one visitor's uploads may take, megabytes")
    all_files: int = Field(400, ge=1, description="Uploaded files of all visitors")
    all_mb: int = Field(2048, ge=1, description="Bytes that uploads, and pictures made of them, may take, megabytes")
    keep_minutes: float = Field(60.0, gt=0, description="Minutes after which uploads, pictures and masks are deleted")
    max_dataset_mb: int = Field(4096, ge=1, description="Bytes that one uploaded dataset may take unpacked, megabytes")
    datasets_mb: int = Field(16384, ge=1, description="Bytes that all uploaded datasets may take, megabytes")
    dataset_days: float = Field(7.0, gt=0, description="Days after which an uploaded dataset goes that no run names")
    demo_waiting: int = Field(4, ge=1, description="Runs of all visitors of a demo that may wait or run at a time")
    demo_hours: float = Field(24.0, gt=0, description="Hours after which a demo visitor's run is deleted")
    demo_runs: int = Field(60, ge=1, description="Ended runs of all visitors of a demo that are kept, the newest")


def load_settings(**overrides: object) -> Settings:
    """Return the settings with ``overrides`` (those that are not None) on top, or raise ``UserError``."""
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(
            "app.settings",
            what=f"The page's settings are not valid: {faults}.",
            why="The page starts only with settings that it understands.",
            fix="Correct the named environment variable or option.",
        ) from error
