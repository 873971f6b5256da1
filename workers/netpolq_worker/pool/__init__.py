"""The pool: the parent process. It runs a worker on each queue and one supervisor, and passes messages between them."""
