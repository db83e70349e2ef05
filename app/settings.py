"""Settings of the page: from the environment (``DSFEDMED_*``), then the command line. Torch-free."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


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
    max_upload_mb: int = Field(64, ge=1, description="Largest accepted image file, megabytes")
    max_image_px: int = Field(8192, ge=64, description="Longest accepted side of an uploaded image, pixels")
    refresh_s: float = Field(1.0, gt=0.1, description="Seconds between two reads of the runs' database")
    page_size: int = Field(20, ge=4, le=96, description="Samples on one page of the gallery")
    read_only: bool = Field(False, description="Nobody can start, stop or resume a run (a public demonstration)")


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
