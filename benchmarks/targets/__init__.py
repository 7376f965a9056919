"""What is measured, one file for each row of the targets. A new row: a new file, and a line here."""

from benchmarks.harness.measure import Target
from benchmarks.targets import (
    p1_echo,
    p2_group,
    p3_hello,
    p4_django,
    p5_memory,
    p6_dispatch,
    p6_storm,
    p7_database,
    p8_direct,
    p9_worker,
    p10_scale,
    p11_large,
    p14_start,
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        p1_echo.TARGET,
        p1_echo.UNPINNED,
        p2_group.TARGET,
        p2_group.PIPELINED,
        p2_group.SENDERS,
        p3_hello.TARGET,
        p3_hello.REPEATED,
        p3_hello.UNPINNED,
        p4_django.TARGET,
        p5_memory.TARGET,
        p6_storm.TARGET,
        p6_storm.IPC,
        p6_dispatch.TARGET,
        p7_database.TARGET,
        p8_direct.TARGET,
        p9_worker.TARGET,
        p10_scale.SENDER,
        p10_scale.COMMANDS,
        p10_scale.MEMORY,
        p11_large.ECHO,
        p11_large.BODIES,
        p11_large.FILE,
        p14_start.START,
        p14_start.MEMORY,
    )
}
