"""TLS 1.3 with libp2p certificates: each side proves its peer id, no certificate authority.

Follows the libp2p TLS specification (specs/tls/tls.md), with the library's certificates. Both ends
show one: a server has to ask for it, which Python does only together with verification, so the
library's verifier that accepts any chain is put in; `peer_of` is what really verifies.
"""

from __future__ import annotations

import ssl
import tempfile

from cryptography import x509
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.tls.certificate import (
    create_cert_template,
    generate_certificate,
    verify_certificate_chain,
)
from libp2p.security.tls.openssl_verify import install_skip_pkix_peer_verification

from primed.p2p.errors import MID, RemoteError
from primed.p2p.identity import Identity

ALPN = "primed-bulk/1"


class Contexts:
    """TLS for both roles, with one fresh certificate of our identity."""

    def __init__(self, identity: Identity) -> None:
        keys = create_new_key_pair(identity.seed)
        certificate, key = generate_certificate(keys.private_key, create_cert_template())
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT)
        # ssl reads files only. The key in it is the certificate's own, not the identity's.
        with tempfile.NamedTemporaryFile("w", prefix="primed-") as file:
            file.write(f"{certificate}\n{key}")
            file.flush()
            for context in (self.server, self.client):
                context.load_cert_chain(file.name)
        install_skip_pkix_peer_verification(self.server)


def _context(role: int) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    if role == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no resumption: every session shows its certificate
        context.verify_mode = ssl.CERT_OPTIONAL
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def peer_of(tls: ssl.SSLSocket) -> bytes:
    """The peer id that the other side's certificate proves. Raises RemoteError."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        raise RemoteError("showed no certificate", penalty=MID)
    try:
        public_key = verify_certificate_chain([x509.load_der_x509_certificate(der)])
    except Exception as error:  # the border: a peer's bytes in the library's parsers
        raise RemoteError(f"certificate refused: {error}"[:200], penalty=MID) from error
    return ID.from_pubkey(public_key).to_bytes()
