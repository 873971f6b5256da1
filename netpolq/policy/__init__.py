"""From objects to programs: the policy compiler, as pure functions of the objects, and the reference evaluator that checks it."""
