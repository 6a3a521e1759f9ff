"""Settings say which variable is wrong, what it was, and what to do; and they never show a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from apishield.core.key_manager.format import SecretKind, make_secret
from apishield.environment import load
from apishield.errors import ConfigurationError
from apishield.settings import Settings, variables

SECRET = "1:" + "A" * 43 + "="
OPERATOR_TOKEN = make_secret(SecretKind.OPERATOR_TOKEN, bytes)
POSTGRES = "postgresql://user:pa$$word@db:5432/apishield"


def test_without_any_variable_it_is_sqlite_and_memory_on_loopback() -> None:
    settings = load({}, env_file=None).settings
    assert settings.sqlite
    assert settings.redis_url is None
    assert settings.loopback
    assert settings.signup_open
    assert settings == Settings()


def test_constructing_settings_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APISHIELD_PORT", "9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("APISHIELD_PORT=9\n")
    assert Settings().port == 8000


def test_the_environment_comes_before_env_file_before_defaults(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("APISHIELD_PORT=9001\nAPISHIELD_HOST=::1\nDATABASE_URL='postgresql://u:a$b%23c@h/d'\n")
    loaded = load({"APISHIELD_PORT": "9002", "APISHIELD_SECRET": SECRET}, env_file)
    assert (loaded.settings.port, loaded.settings.host) == (9002, "::1")
    assert loaded.settings.database_url == "postgresql://u:a$b%23c@h/d"
    assert (loaded.origins["port"], loaded.origins["host"], loaded.origins["workers"]) == (
        "environment", str(env_file), "default",
    )  # fmt: skip


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({"REDIS_URL": "", "APISHIELD_PORT": ""}, None).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APISHIELD_PORT", "http"),
        ("APISHIELD_PORT", "65536"),
        ("APISHIELD_PORT", "-1"),
        ("APISHIELD_WORKERS", "0"),
        ("APISHIELD_WORKERS", "1.5"),
        ("APISHIELD_LOG_LEVEL", "loud"),
        ("APISHIELD_SIGNUP", "maybe"),
        ("APISHIELD_TRUSTED_PROXIES", "10.0.0.0/8,nonsense"),
        ("APISHIELD_OPERATOR_TOKEN", "aso_short"),
        ("APISHIELD_OPERATOR_TOKEN", OPERATOR_TOKEN[:-1] + "?"),
        ("APISHIELD_OPERATOR_TOKEN", OPERATOR_TOKEN.replace("aso_", "ast_")),
        ("APISHIELD_SIGNUP_LIMIT", "often"),
        ("DATABASE_URL", "mysql://user:hunter2@db/x"),
        ("DATABASE_URL", "postgresql://user:hunter2@db"),
        ("DATABASE_URL", "postgresql://user:hunter2@db:99999/x"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("REDIS_URL", "http://user:hunter2@redis"),
        ("REDIS_URL", "redis://:hunter2@redis:port/0"),
        ("REDIS_URL", "redis://"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092,kafka:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka://kafka:9092"),
        ("APISHIELD_KAFKA_TOPIC", ".."),
        ("APISHIELD_KAFKA_TOPIC", "my events"),
        ("APISHIELD_KAFKA_PARTITIONS", "0"),
        ("APISHIELD_KAFKA_SECURITY_PROTOCOL", "tls"),
        ("APISHIELD_KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("APISHIELD_KAFKA_CA_FILE", "/nowhere/ca.pem"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_variable_and_the_rule_and_no_secret(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({name: value, "APISHIELD_SECRET": SECRET}, None)
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert "must be" in message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message
    assert "aso_short" not in message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"APISHIELD_PORT": "x", "APISHIELD_WORKERS": "y"}, None)
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["APISHIELD_PORT", "APISHIELD_WORKERS"]


def test_postgresql_without_a_secret_is_refused_and_says_how_to_make_one() -> None:
    with pytest.raises(ConfigurationError, match=r"APISHIELD_SECRET is not set.*apishield generate secret"):
        load({"DATABASE_URL": POSTGRES}, None)


def test_several_workers_without_redis_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"APISHIELD_WORKERS is 4 and REDIS_URL is not set: each worker would"):
        load({"APISHIELD_WORKERS": "4"}, None)
    assert load({"APISHIELD_WORKERS": "4", "REDIS_URL": "redis://localhost"}, None).settings.workers == 4


@pytest.mark.parametrize("name", [variable.name for _, _, variable in variables() if variable.secret])
def test_each_secret_can_come_from_a_file(name: str, tmp_path: Path) -> None:
    field, value = {
        "APISHIELD_SECRET": ("secret", SECRET),
        "APISHIELD_OPERATOR_TOKEN": ("operator_token", OPERATOR_TOKEN),
        "DATABASE_URL": ("database_url", POSTGRES),
        "REDIS_URL": ("redis_url", "redis://:password@redis:6379/0"),
        "APISHIELD_KAFKA_SASL_PASSWORD": ("kafka_sasl_password", "pa$$word"),
    }[name]
    file = tmp_path / "value"
    file.write_text(value + "\n")
    loaded = load({"APISHIELD_SECRET": SECRET} | {name + "_FILE": str(file)} if name != "APISHIELD_SECRET" else
                  {name + "_FILE": str(file)}, None)  # fmt: skip
    assert getattr(loaded.settings, field) == value
    assert loaded.origins[field] == str(file)


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_missing_or_empty_secret_file_is_named(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=f"APISHIELD_SECRET_FILE is '{file}'"):
        load({"APISHIELD_SECRET_FILE": str(file)}, None)


def test_a_value_and_its_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both set"):
        load({"REDIS_URL": "redis://a", "REDIS_URL_FILE": str(tmp_path)}, None)


def test_an_unknown_variable_is_named_with_the_nearest_one() -> None:
    assert load({"APISHIELD_PROT": "1"}, None).warnings == (
        "APISHIELD_PROT (environment) is not a setting; did you mean APISHIELD_PORT?",
    )
    assert load({"APISHIELD_REDIS_URL": "redis://a"}, None).warnings == (
        "APISHIELD_REDIS_URL (environment) is not a setting; did you mean REDIS_URL?",
    )
    assert load({"APISHIELD_URL": "http://x", "PORT": "1"}, None).warnings == ()


@pytest.mark.parametrize(
    ("host", "signup", "open_"),
    [
        ("127.0.0.1", "auto", True),
        ("::1", "auto", True),
        ("localhost", "auto", True),
        ("0.0.0.0", "auto", False),
        ("192.0.2.1", "auto", False),
        ("0.0.0.0", "OPEN", True),
        ("127.0.0.1", "closed", False),
    ],
)
def test_signup_is_open_on_loopback_only_unless_it_is_said(host: str, signup: str, open_: bool) -> None:
    assert load({"APISHIELD_HOST": host, "APISHIELD_SIGNUP": signup}, None).settings.signup_open is open_


def test_no_secret_is_in_the_representation() -> None:
    settings = Settings(secret=SECRET, operator_token=OPERATOR_TOKEN, database_url=POSTGRES)
    for secret in (SECRET, OPERATOR_TOKEN, "pa$$word"):
        assert secret not in repr(settings)
        assert secret not in str(settings)


@pytest.mark.parametrize("url", ["redis+sentinel://:pw@a:26379,b:26379/main/0", "unix:///run/redis.sock", "rediss://h"])
def test_the_schemes_of_clusters_sentinels_tls_and_sockets_are_taken(url: str) -> None:
    assert load({"REDIS_URL": url}, None).settings.redis_url == url


def test_postgres_urls_as_some_hosts_write_them_are_taken() -> None:
    settings = load({"DATABASE_URL": "postgres://u:p@h/d", "APISHIELD_SECRET": SECRET}, None).settings
    assert settings.database_url == "postgresql://u:p@h/d"


def test_kafka_is_given_a_user_and_a_password_exactly_where_it_is_told_to_sign_in() -> None:
    brokers = {"KAFKA_BOOTSTRAP_SERVERS": "a:9092, b:9092"}
    password = {"APISHIELD_KAFKA_SASL_PASSWORD": "hunter2"}
    with pytest.raises(ConfigurationError, match="Set APISHIELD_KAFKA_SASL_USERNAME and APISHIELD_KAFKA_SASL_PASSWORD"):
        load(brokers | {"APISHIELD_KAFKA_SECURITY_PROTOCOL": "sasl_ssl", "APISHIELD_KAFKA_SASL_USERNAME": "u"}, None)
    with pytest.raises(ConfigurationError, match="which doesn't sign in"):
        load(brokers | password, None)
    with pytest.raises(ConfigurationError, match="publishes nothing"):
        load(brokers | {"APISHIELD_LEDGER": "inline"}, None)
    signing_in = {"APISHIELD_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "APISHIELD_KAFKA_SASL_USERNAME": "u"}
    settings = load(brokers | password | signing_in, None).settings
    assert settings.kafka_bootstrap_servers == ("a:9092", "b:9092")
    assert "hunter2" not in repr(settings)
