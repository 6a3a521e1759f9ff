"""Kafka: how events travel from the spools of many nodes to the workers that take them into the ledger.

Owns: what a message holds and which partition it goes to, the topics, sending with proof of arrival, taking part in a group.
Does not own: how far a spool was published (``workers.publish``), how far a partition was taken (``services.ledger``).

confluent-kafka's synchronous client is used, in a thread; see ``docs/reference/kafka.md`` for all that an operator can rely on.
"""
