"""Invites and addresses: what is formatted parses to the same, all else is refused with a hint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primed.node.addresses import check_dialable, check_listen
from primed.node.invite import Invite, format_invite, parse_invite
from primed.p2p import peerid
from primed.p2p.errors import UserError

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ADDRESS = f"/ip4/203.0.113.7/tcp/4101/p2p/{PEER}"

peers = st.binary(min_size=32, max_size=32).map(
    lambda key: peerid.to_text(peerid.of_public_key(key))
)
hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}"),
    st.sampled_from(["/dns4/seed.example.org", "/dns/a", "/dns6/x-1.y_z"]),
)
addresses = st.builds(
    "{}/tcp/{}/p2p/{}".format, hosts, st.integers(min_value=1, max_value=65535), peers
)
invites = st.builds(
    Invite,
    st.one_of(st.none(), st.binary(min_size=32, max_size=32)),
    st.lists(addresses, min_size=1, max_size=16).map(tuple),
)


@given(invites)
def test_an_invite_survives_its_text(invite: Invite) -> None:
    assert parse_invite(format_invite(invite)) == invite


@given(st.text(max_size=200))
def test_any_text_is_an_invite_or_a_user_error(text: str) -> None:
    for tried in (text, f"primed://{text}", f"primed://@{text}"):
        try:
            assert format_invite(parse_invite(tried)) == tried
        except UserError as error:
            assert "an invite looks like" in error.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.org",
        "primed://",
        "primed://@",
        f"primed://{ADDRESS}",
        f"primed://{'AB' * 32}@{ADDRESS}",
        f"primed://{'ab' * 31}@{ADDRESS}",
        f"primed://@{ADDRESS},",
        "primed://@" + ",".join([ADDRESS] * 17),
        "primed://@/ip4/203.0.113.7/tcp/4101",
        f"primed://@/ip4/203.0.113.700/tcp/4101/p2p/{PEER}",
        f"primed://@/ip4/203.0.113.7/tcp/66000/p2p/{PEER}",
        f"primed://@/ip4/203.0.113.7/tcp/0/p2p/{PEER}",
        f"primed://@/ip4/203.0.113.7/udp/4101/quic-v1/p2p/{PEER}",
        f"primed://@/ip4/203.0.113.7/tcp/4101/p2p/{PEER[:-9]}",
        f"primed://@{ADDRESS}/",
        f"primed://@ {ADDRESS}",
        f"primed://@{ADDRESS}\n",
    ],
)
def test_what_is_not_an_invite_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_invite(text)


def test_addresses_for_listening_and_for_dialling_differ() -> None:
    assert check_listen("/ip6/::/tcp/0") == "/ip6/::/tcp/0"
    assert check_dialable(f"{ADDRESS}/p2p-circuit/p2p/{PEER}")
    with pytest.raises(ValueError, match="no /p2p/"):
        check_listen(ADDRESS)
    with pytest.raises(ValueError, match="ends in /p2p/"):
        check_dialable("/ip4/203.0.113.7/tcp/4101")
