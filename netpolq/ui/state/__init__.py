"""What is known of the agents and their flows. Pure: no module does I/O, and the caller passes the time."""
