"""Process groups, the launcher's environment, stop requests, and detection of hanging or dead ranks.

``launcher`` reads the launcher's environment variables; ``comm.init`` joins the job and returns ``Ranks``. ``Watchdog``
ends the job when a rank dies or hangs, ``preemption`` records stop requests, ``console`` prints an error once per job.

May import: errors.
"""
