"""shared/settings.py: a wrong setting is one clear line and exit code 2; secrets are never shown."""

import pytest
from pydantic import SecretStr

from shared.settings import GrpcSettings, KafkaSettings, ServiceSettings, masked, read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINESTREAM_KAFKA_PARTITIONS", "0"),
        ("FINESTREAM_KAFKA_PARTITIONS", "many"),
        ("FINESTREAM_KAFKA_SECURITY", "TLS"),
        ("FINESTREAM_GRPC_MAX_MESSAGE_BYTES", "1"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_variable_and_exit_code_2(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        read(ServiceSettings)
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"finestream: {name}: ")
    assert line.count("\n") == 1


def test_half_a_tls_pair_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FINESTREAM_GRPC_TLS_KEY", "/key.pem")
    with pytest.raises(SystemExit):
        read(ServiceSettings)
    assert "tls_certificate and tls_key go together" in capsys.readouterr().err


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = ServiceSettings(
        kafka=KafkaSettings(sasl_password=SecretStr("hunter2")), grpc=GrpcSettings(token=SecretStr("hunter3"))
    )
    for shown in (str(masked(settings)), str(settings), repr(settings)):
        assert "hunter" not in shown


def test_every_default_binds_loopback() -> None:
    settings = ServiceSettings()
    assert {settings.host, settings.metrics_host} == {"127.0.0.1"}
