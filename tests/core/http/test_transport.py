"""Network backend below the shared transports."""

from nanogpt_core.http import network


def test_requests_go_through_our_network_backend(embed, serve, monkeypatch):
    used = []
    hold_back = network._Channel.hold_back
    monkeypatch.setattr(
        network._Channel, "hold_back", lambda self, data: (used.append(len(data)), hold_back(self, data))[1]
    )
    embed(serve().embedder(), ["a"])
    assert used
