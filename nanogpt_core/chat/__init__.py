"""Chat completions through the OpenAI SDK.

- ``client``, ``session`` and ``transport``: the SDK's clients, over a transport that sends, retries and reports.
- ``options``: checks of the options of both plugins' chat classes.
- ``request``, ``stream`` and ``whole_reply``: a reply is read as a stream of events, also if it came whole.
- ``event_parser``, ``response`` and ``choice_stream``: events, checks of each, and the parts of one choice in order.
- ``repair``, ``tool_calls``, ``json_text`` and ``provider_fields``: the fields of a part.
"""
