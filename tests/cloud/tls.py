"""What sslyze, a scanner that isn't ours, finds of the node's TLS: tls.py AUTHORITY HOST PORT"""

import os
import socket
import ssl
import struct
import sys

from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from sslyze import (
    ScanCommand,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)

OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
# Forward secrecy and authenticated encryption, all of them.
CIPHERS = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}


def scanned(host, port):
    location = ServerNetworkLocation(hostname=host, port=port, ip_address="127.0.0.1")
    request = ServerScanRequest(
        server_location=location,
        network_configuration=ServerNetworkConfiguration(tls_server_name_indication=host, network_max_retries=1),
        scan_commands={
            ScanCommand[f"{version.upper()}_CIPHER_SUITES"] for version in (*OLD, "tls_1_2", "tls_1_3")
        }
        | {
            ScanCommand.TLS_COMPRESSION,
            ScanCommand.SESSION_RENEGOTIATION,
            ScanCommand.TLS_FALLBACK_SCSV,
            ScanCommand.TLS_1_3_EARLY_DATA,
            ScanCommand.HEARTBLEED,
            ScanCommand.ROBOT,
            ScanCommand.OPENSSL_CCS_INJECTION,
            ScanCommand.ELLIPTIC_CURVES,
            ScanCommand.TLS_EXTENDED_MASTER_SECRET,
        },
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    (result,) = scanner.get_results()
    assert result.scan_result, result.connectivity_error_trace
    found = result.scan_result

    def of(name):
        attempt = getattr(found, name)
        assert attempt.result, (name, attempt.error_reason, attempt.error_trace)
        return attempt.result

    for version in OLD:
        accepted = of(f"{version}_cipher_suites").accepted_cipher_suites
        assert not accepted, (version, accepted)
    for version in ("tls_1_2", "tls_1_3"):
        names = {accepted.cipher_suite.name for accepted in of(f"{version}_cipher_suites").accepted_cipher_suites}
        assert names and names <= CIPHERS, (version, names - CIPHERS)
        print(f"{version}: {len(names)} cipher suites")
    assert not of("tls_compression").supports_compression
    renegotiation = of("session_renegotiation")
    assert renegotiation.supports_secure_renegotiation, "RFC 5746 tells a client that there is none to attack"
    assert not renegotiation.is_vulnerable_to_client_renegotiation_dos
    assert not of("tls_1_3_early_data").supports_early_data, "early data can be sent twice"
    assert not of("heartbleed").is_vulnerable_to_heartbleed
    assert not of("openssl_ccs_injection").is_vulnerable_to_ccs_injection
    assert "NOT_VULNERABLE" in of("robot").robot_result.name, of("robot").robot_result
    assert of("tls_extended_master_secret").supports_ems_extension
    curves = {curve.name for curve in of("elliptic_curves").supported_curves}
    assert "X25519" in curves and not curves - {"X25519", "secp256r1", "secp384r1"}, curves
    print(f"curves: {', '.join(sorted(curves))}")


def names(authority, port, asked):
    """The names in the certificate that is shown to whoever asks for `asked`."""
    context = ssl.create_default_context(cafile=authority)
    # What it is for is looked at here, not what it isn't.
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain, server_hostname=asked) as secure:
        certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True))
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    return names.get_values_for_type(x509.DNSName)


def group(port, host, offered):
    """The key exchange group that the node picks in TLS 1.3 of those offered: its answer to a hello without a share for any
    is a request for the one that it wants (RFC 8446, 4.1.4)."""
    def vector(data, length):
        return len(data).to_bytes(length, "big") + data

    def extension(number, data):
        return struct.pack(">H", number) + vector(data, 2)

    extensions = b"".join(
        [
            extension(0, vector(b"\0" + vector(host.encode(), 2), 2)),
            extension(10, vector(b"".join(struct.pack(">H", number) for number in offered), 2)),
            extension(13, vector(struct.pack(">HHH", 0x0403, 0x0804, 0x0401), 2)),
            extension(43, vector(b"\x03\x04", 1)),
            extension(51, vector(b"", 2)),
        ]
    )
    hello = b"\x03\x03" + os.urandom(32) + vector(os.urandom(32), 1) + vector(b"\x13\x01\x13\x02", 2) + vector(b"\0", 1)
    message = b"\x01" + vector(hello + vector(extensions, 2), 3)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
        stream.sendall(b"\x16\x03\x01" + vector(message, 2))
        answer = stream.recv(4096)
    assert answer[0] == 0x16 and answer[5] == 2, answer[:16]
    at = 5 + 4 + 2 + 32
    at += 1 + answer[at] + 2 + 1 + 2
    while at < len(answer):
        number, length = struct.unpack(">HH", answer[at : at + 4])
        if number == 51:
            return struct.unpack(">H", answer[at + 4 : at + 6])[0]
        at += 4 + length
    raise AssertionError("no group was picked")


if __name__ == "__main__":
    authority, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    assert names(authority, port, host) == [host]
    api = names(authority, port, "api.localhost")
    assert "api.localhost" in api, api
    # Another name gets the API's certificate, and the visitor's own client says what is wrong.
    for other in ("evil.example", "localhost", "a.b.c.localhost", f"x.{host}"):
        assert names(authority, port, other) == api, other
    assert group(port, host, [0x11EC, 0x001D, 0x0017]) == 0x11EC
    assert group(port, host, [0x11EC]) == 0x11EC
    assert group(port, host, [0x001D, 0x0017]) == 0x001D
    print("group: X25519MLKEM768 where it is offered")
    scanned(host, port)
