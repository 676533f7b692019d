"""The processes of one job: who they are, how they exchange values, and what happens when one fails.

``comm.init`` joins the job of a launcher and returns ``Ranks``. ``Watchdog`` ends the job when a rank dies or hangs,
``preemption`` reports a request to stop, and ``console`` prints a line once per job.

May import: errors.
"""
