"""The pool: the parent process. It keeps a worker on each queue and one supervisor, and passes messages between them."""
