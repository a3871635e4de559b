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
    from retrieval.generation.timeouts import Timeouts

    key = settings.generator_api_key
    return OpenAIGenerator(
        settings.generator_url,
        model=settings.generator_model,
        api_key=key.get_secret_value() if key else None,
        timeouts=Timeouts(
            connect_s=settings.generator_connect_timeout_s,
            first_token_s=settings.generator_first_token_timeout_s,
            read_s=settings.generator_read_timeout_s,
            total_s=settings.generator_total_timeout_s,
        ),
        retries=settings.generator_retries,
        breaker_failures=settings.generator_breaker_failures,
        breaker_s=settings.generator_breaker_s,
        interval_s=settings.generator_piece_interval_ms / 1000,
    )
