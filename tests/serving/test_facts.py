import datetime
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from conftest import draw_image
from PIL import ExifTags, Image

c2pa = pytest.importorskip("c2pa")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hf_deepfake.serving.facts import FileFacts, file_facts

MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
NOTHING_STATED: dict[str, Any] = {
    "several": False,
    "camera": "",
    "software": "",
    "date": "",
    "has_place": False,
    "credentials": "none",
    "signer": "",
    "says_made_by_ai": False,
}


def encoded(form: str = "JPEG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    draw_image(0, 0, 48).save(buffer, form, **settings)
    return buffer.getvalue()


def test_a_plain_picture_states_its_format_and_size_and_nothing_else() -> None:
    content = encoded("PNG")
    assert file_facts(content) == FileFacts("PNG", 48, 48, len(content), **NOTHING_STATED)


def test_camera_software_and_date_are_read_and_of_the_place_only_that_there_is_one() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Acme ", "Box\0"
    exif[ExifTags.Base.Software], exif[ExifTags.Base.DateTime] = "Editor\n2 <b>", "2024:01:02 00:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 0.0)
    facts = file_facts(encoded(exif=exif))
    assert (facts.camera, facts.software, facts.date) == ("Acme Box", "Editor\\n2 <b>", "2024:01:02 00:00:00")
    assert facts.has_place
    assert "48" not in repr(facts).replace("width=48, height=48", "")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:05:06 07:08:09"
    assert file_facts(encoded(exif=exif)).date == "2020:05:06 07:08:09"


def test_damaged_tags_count_as_none() -> None:
    assert file_facts(encoded(exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).camera == ""


def test_several_frames_are_noticed_but_for_what_a_phone_puts_behind_its_photograph() -> None:
    frames = [draw_image(1, seed) for seed in range(2)]
    assert file_facts(encoded("GIF", save_all=True, append_images=frames)).several
    of_a_phone = file_facts(encoded("MPO", save_all=True, append_images=frames))
    assert (of_a_phone.format, of_a_phone.several) == ("JPEG", False)


@pytest.fixture(scope="module")
def signer_info() -> Any:
    """A signer with a certificate of its own authority, which no list of trusted ones holds."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Authority", authority_key, authority_key, None)
    chain = [_certificate("A Camera Maker", key, authority_key, authority), authority]
    pem = b"".join(part.public_bytes(serialization.Encoding.PEM) for part in chain)
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return c2pa.C2paSignerInfo(b"es256", pem, key.private_bytes(*private), None)


def _certificate(name: str, key: Any, issuer_key: Any, issuer: x509.Certificate | None) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Test"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ]
    )
    now, day, is_leaf = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1), issuer is not None
    uses = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only".split(),
        False,
    )
    parts: list[tuple[Any, bool]] = [
        (x509.BasicConstraints(ca=not is_leaf, path_length=None), True),
        (x509.KeyUsage(digital_signature=is_leaf, key_cert_sign=not is_leaf, crl_sign=not is_leaf, **uses), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    ]
    parts += [(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)] if is_leaf else []
    builder = x509.CertificateBuilder(
        issuer.subject if issuer else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - day,
        now + day,
    )
    for part, critical in parts:
        builder = builder.add_extension(part, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def signed(signer_info: Any, source_type: str = MADE_BY_AI, address: str | None = None) -> bytes:
    """A JPEG with content credentials, in the file or at an address."""
    action = {"action": "c2pa.created", "digitalSourceType": source_type}
    assertions = [{"label": "c2pa.actions", "data": {"actions": [action]}}]
    builder = c2pa.Builder({"claim_generator_info": [{"name": "tests"}], "assertions": assertions})
    if address is not None:
        builder.set_remote_url(address)
        builder.set_no_embed()
    target = io.BytesIO()
    builder.sign(c2pa.Signer.from_info(signer_info), "image/jpeg", io.BytesIO(encoded()), target)
    return target.getvalue()


@pytest.mark.parametrize(
    ("source_type", "says_made_by_ai"), [(MADE_BY_AI, True), (MADE_BY_AI.replace("trainedA", "a"), False)]
)
def test_intact_credentials_tell_who_signed_and_whether_a_generator_made_it(
    signer_info: Any, source_type: str, says_made_by_ai: bool
) -> None:
    facts = file_facts(signed(signer_info, source_type))
    assert (facts.credentials, facts.signer, facts.says_made_by_ai) == ("intact", "A Camera Maker", says_made_by_ai)


def test_credentials_of_another_picture_are_broken(signer_info: Any) -> None:
    content = bytearray(signed(signer_info))
    content[-40] ^= 255
    assert file_facts(bytes(content)).credentials == "broken"


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
    yield f"http://127.0.0.1:{server.server_port}/credentials", asked
    server.shutdown()
    server.server_close()


def test_a_file_cannot_make_the_reader_ask_an_address(signer_info: Any, address: tuple[str, list[str]]) -> None:
    url, asked = address
    content = signed(signer_info, address=url)
    assert file_facts(content).credentials == "remote"
    assert asked == []
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/jpeg", io.BytesIO(content))  # as it is by default
    assert asked == ["/credentials"]
