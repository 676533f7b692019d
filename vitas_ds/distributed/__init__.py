"""Process groups, the launcher's environment, stop requests, and detection of hanging or dead ranks.

``supervisor`` is the parent process of each rank. ``launcher`` reads the launcher's environment variables, ``network``
chooses the interface, the ranks meet in ``rendezvous``; ``comm.init`` joins the job and returns ``Ranks``. ``Watchdog``
ends the job when a rank dies or hangs, ``preemption`` records stop requests, ``console`` prints an error once per job.
``torchrun`` runs torchrun and exits with the status of the ranks. ``host`` knows the limits of the machine.

May import: errors.
"""
