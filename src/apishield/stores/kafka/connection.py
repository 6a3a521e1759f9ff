"""How the brokers are reached: what the settings mean to librdkafka, and what is said when they can't be."""

from __future__ import annotations

import logging
from typing import Any

import structlog

from apishield.errors import MissingExtra
from apishield.settings import Settings

try:
    from confluent_kafka import KafkaError
except ImportError as error:
    raise MissingExtra("The client of Kafka", "kafka") from error

log = structlog.get_logger("apishield.kafka")

_CRITICAL = 2  # of librdkafka's own lines; a connection that fails is told by ``Watch``, once


class Watch:
    """Whether the brokers answer, as one client sees it. Told when it begins and when it is over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.fatal: KafkaError | None = None

    def note_error(self, error: KafkaError) -> None:
        """librdkafka's ``error_cb``: it goes on by itself, unless the error is fatal."""
        if error.fatal():
            self.fatal = error
            log.error("kafka.fatal", client=self.name, error=error.str())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self.away:
            self.away = True
            log.warning("kafka.away", client=self.name, error=error.str())
        elif error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            log.error("kafka.refused", client=self.name, error=error.str())

    def note_answer(self) -> None:
        """The brokers have answered."""
        if self.away:
            self.away = False
            log.info("kafka.back", client=self.name)


def client_options(settings: Settings, watch: Watch) -> dict[str, Any]:
    """What every client is told: where the brokers are, how to sign in, whom to tell of errors."""
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.kafka_bootstrap_servers),
        "client.id": f"apishield-{watch.name}",
        "security.protocol": settings.kafka_security_protocol,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
        "error_cb": watch.note_error,
        "log_level": _CRITICAL,
        "logger": logging.getLogger("apishield.kafka"),
    }
    if settings.kafka_ca_file is not None:
        options["ssl.ca.location"] = str(settings.kafka_ca_file)
    if settings.kafka_security_protocol.startswith("sasl"):
        options["sasl.mechanisms"] = settings.kafka_sasl_mechanism
        options["sasl.username"] = settings.kafka_sasl_username
        options["sasl.password"] = settings.kafka_sasl_password
    return options
