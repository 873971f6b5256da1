"""The process of `netpolq ui`: reads agents, keeps what they said in the last hour, and serves a page and a JSON API about it."""
