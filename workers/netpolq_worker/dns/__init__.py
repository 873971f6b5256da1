"""The DNS reader: learns addresses from the DNS responses that pods get, before the pods get them. It decides nothing.

    packet ─► transport ─► tcp ─► message ─► learner ─► to a worker's queue; a response with a new address waits in held

`learner` connects the parts. All are pure but `loop`, the process.
"""
