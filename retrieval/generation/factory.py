"""Which generator the settings ask for."""

from retrieval.config import Settings
from retrieval.generation.base import Generator
from retrieval.generation.extractive import EmbedTexts, ExtractiveGenerator


def open_generator(settings: Settings, embed: EmbedTexts) -> Generator:
    """Return the client of the configured model server, or the extractive generator where there is none.

    `embed(texts, kind)` serves the extractive one alone. Connects to nothing; raises InvalidSettings.
    """
    if settings.generator_url is None:
        return ExtractiveGenerator(embed)
    # The HTTP client is loaded only by who has a model server.
    from retrieval.generation.openai_client import OpenAIGenerator

    key = settings.generator_api_key
    return OpenAIGenerator(
        settings.generator_url,
        model=settings.generator_model,
        api_key=key.get_secret_value() if key else None,
        connect_timeout_s=settings.generator_connect_timeout_s,
        read_timeout_s=settings.generator_read_timeout_s,
    )
