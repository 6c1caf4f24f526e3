"""gdb commands for programs on the host executor (x86-64): `source examples/simt/gdb.py`, then

simt threads      where every thread of the block that is being run stands
simt bt THREAD    the backtrace of one of them, by its linear index
"""

import gdb

SAVED = ("r15", "r14", "r13", "r12", "rbx", "rbp", "rip")  # as fastdl_simt_switch leaves them


def current():
    """The running thread and its block's threads."""
    running = gdb.parse_and_eval("(fastdl::simt::Thread*)fastdl::simt::self")
    if not running:
        raise gdb.GdbError("no kernel is running on this OS thread")
    block = running["block"].cast(gdb.lookup_type("fastdl::simt::Block").pointer())
    first = block["threads"]["_M_impl"]["_M_start"]
    return int(running["thread"]), [first[i] for i in range(int(block["thread_count"]))]


def show_threads():
    running, threads = current()
    for thread in threads:
        index, number = thread["thread_idx"], int(thread["thread"])
        state = "running" if number == running else str(thread["state"]).rsplit("::", 1)[-1]
        if state == "in_collective":
            state += f" {thread['operation'].string()} mask {int(thread['mask']):#010x}"
        if state == "at_barrier":
            state += f" {int(thread['barrier_id'])}"
        print(f"{number:4d} ({int(index['x'])}, {int(index['y'])}, {int(index['z'])}) {state}")


def backtrace(number):
    running, threads = current()
    if number == running:
        gdb.execute("bt")
        return
    gdb.newest_frame().select()
    before = {name: int(gdb.parse_and_eval(f"(long)${name}")) for name in (*SAVED, "rsp")}
    stack = int(threads[number]["fiber"]["stack_pointer"])
    words = gdb.lookup_type("long").pointer()
    try:
        for i, name in enumerate(SAVED):
            value = int(gdb.Value(stack + 8 * i).cast(words).dereference())
            gdb.execute(f"set ${name} = {value}")
        gdb.execute(f"set $rsp = {stack + 8 * len(SAVED)}")
        gdb.execute("bt")
    finally:
        gdb.newest_frame().select()
        for name, value in before.items():
            gdb.execute(f"set ${name} = {value}")


class Simt(gdb.Command):
    def __init__(self):
        super().__init__("simt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        words = argument.split()
        if words == ["threads"]:
            show_threads()
        elif len(words) == 2 and words[0] == "bt":
            backtrace(int(gdb.parse_and_eval(words[1])))
        else:
            raise gdb.GdbError(__doc__)


Simt()
