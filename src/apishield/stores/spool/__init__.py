"""The spool: the events of a process, on this machine's disk, until they are in the ledger.

Owns: how frames lie in files, what is done when there is no room, who may drain and remove the files of a process that ended.
Does not own: what an event holds (``core.events``), where events go (``services.ledger``, ``stores.kafka``).

``SpoolWriter`` is a process's own; ``Spools`` finds all spools of a node, and makes a ``SpoolReader`` for each.
"""

from apishield.stores.spool.reader import SpoolReader
from apishield.stores.spool.spools import Spools
from apishield.stores.spool.writer import SpoolWriter

__all__ = ["SpoolReader", "SpoolWriter", "Spools"]
