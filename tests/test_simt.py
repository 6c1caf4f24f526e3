"""The host executor of the CUDA kernels (csrc/simt): right kernels compute, wrong ones are named. See docs/simt.md."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
FLAGS = ["-std=c++17", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-DFASTDL_SIMT"]
FLAGS += [f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/simt/include"]

pytestmark = [
    pytest.mark.timeout(900),  # the first test of each set of flags compiles
    pytest.mark.skipif(not COMPILER or os.name != "posix", reason="needs a C++ compiler on a POSIX system"),
    pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="builds its own sanitizer run"),
]


def _names(program):
    """The cases of tests/simt/<program>.cpp."""
    return re.findall(r"^CASE\((\w+)\)", (ROOT / f"tests/simt/{program}.cpp").read_text(), re.MULTILINE)


def _compile(sources, output, *flags):
    command = [COMPILER, *FLAGS, *flags, *map(str, sources), "-o", str(output)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, f"{' '.join(command)}\n{built.stderr}"
    return output


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Builds tests/simt/<name>.cpp; the executor once for each set of flags."""
    folder = tmp_path_factory.mktemp("simt")
    executors = {}

    def build(name, *flags):
        key = "_".join(flag.strip("-").replace("=", "_") for flag in flags) or "plain"
        if flags not in executors:
            sources = sorted((ROOT / "csrc/simt").glob("*.cpp"))
            objects = [folder / f"{source.stem}_{key}.o" for source in sources]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [pool.submit(_compile, [s], o, "-O1", "-c", *flags) for s, o in zip(sources, objects)]
                executors[flags] = [job.result() for job in jobs]
        if not (output := folder / f"{name}_{key}").exists():
            _compile([ROOT / f"tests/simt/{name}.cpp", *executors[flags]], output, "-O1", *flags)
        return output

    return build


def run(program, *cases, **environment):
    """What the program prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FASTDL_SIMT")}
    done = subprocess.run(
        [program, *cases], capture_output=True, text=True, timeout=300, env={**kept, **environment}
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("seed, os_threads", [("1", "1"), ("2", "2"), ("77", "5")])
def test_right_kernels(program, seed, os_threads):
    """Every case in one process: what one launch leaves behind must not matter to the next."""
    names = [n for n in _names("right") if n not in ("registry", "out_of_memory")]
    printed = run(program("right"), *names, FASTDL_SIMT_SEED=seed, FASTDL_SIMT_THREADS=os_threads)
    assert printed.split() == [word for name in names for word in (f"{name}:", "done")]


@pytest.mark.parametrize("source", ["hopper_right", "hopper_wgmma"])
@pytest.mark.parametrize("seed, os_threads", [("1", "1"), ("2", "2"), ("77", "5")])
def test_right_use_of_hopper(program, seed, os_threads, source):
    """The wrappers of sm_90's instructions (csrc/cuda/ptx): bulk copies, mbarriers, clusters; wgmma."""
    names = _names(source)
    printed = run(program(source), *names, FASTDL_SIMT_SEED=seed, FASTDL_SIMT_THREADS=os_threads)
    assert printed.split() == [word for name in names for word in (f"{name}:", "done")]


@pytest.mark.parametrize("name", ["registry", "out_of_memory"])
def test_cases_with_a_process_of_their_own(program, name):
    assert run(program("right"), name) == f"{name}: done\n"


def test_right_kernels_on_ucontext(program):
    """The fallback for processors without a context switch of their own."""
    names = ["barriers", "shuffles", "named_barriers", "after_an_error"]
    printed = run(program("right", "-DFASTDL_SIMT_UCONTEXT"), *names)
    assert printed.split() == [word for name in names for word in (f"{name}:", "done")]


THREAD = r"block \(\d+, \d+, \d+\), thread \(\d+, \d+, \d+\)"

# What is said after "kernel <name>, block ..., thread ...: ".
WRONG = {
    "missing_barrier": r"race in shared memory: it \w+ 4 bytes .*, which thread \(\d+, \d+, 0\) (wrote|read) without",
    "missing_barrier_after_reads": r"race in shared memory: it \w+ 4 bytes of shared memory at offset \d+",
    "two_writers": r"race in shared memory: it writes 4 bytes .* which thread \(\d+, 0, 0\) wrote without a barrier",
    "missing_syncwarp": r"race in shared memory: it \w+ 2 bytes",
    "wrong_barrier": r"race in shared memory: it \w+ 4 bytes .* without a barrier between",
    "missing_wait": r"read of bytes that a cp\.async still has in flight: 4 bytes of shared memory at offset \d+",
    "missing_barrier_after_wait": r"race in shared memory|read of bytes that a cp\.async still has in flight",
    "never_waited": r"ended with 1 cp\.async that it never waited for",
    "unaligned_relaxed_load": r"ld\.v4: an address not aligned to 16 bytes",
    "unaligned_copy": r"cp\.async of 16 bytes: source or destination is not aligned",
    "past_shared": r"access outside shared memory: offset 524 of 512 bytes",
    "index_past_array": r"index 1[2-5]\d of a shared array of 128",
    "too_little_shared": r"the kernel uses 512 bytes of shared memory, the launch gave 508",
    "stack_overflow": r"overflow of its stack of \d+ KiB",
    "divergent_shuffle": r"divergent __shfl_down_sync: .*thread \(37, 0, 0\).* has ended",
    "divergent_shuffle_and_barrier": r"divergent __shfl_xor_sync, .* 32 threads at __syncthreads .*; 32 threads in",
    "two_collectives": r"divergent __\w+_sync: its mask 0xffffffff names thread .*, which is in __\w+_sync",
    "crossed_masks": r"divergent __ballot_sync: its mask .* which is in __ballot_sync with mask 0x",
    "own_lane_missing": r"divergent __ballot_sync: its mask 0x7fffffff does not name the thread itself",
    "divergent_barrier": r"divergent barrier: .*(__syncthreads, but thread \(5, 0, 0\) has ended|it ended while)",
    "two_barriers": r"divergent barrier: at __syncthreads\w*, where others wait at __syncthreads",
    "deadlock": r"deadlock, .*: 32 threads at bar.sync \(barrier 1: 32 of 64 .*; 32 threads at bar.sync \(barrier 2",
    "endless_spin": r"deadlock, .* 1 thread in a loop that waits for another thread, such as \(0, 0, 0\)",
    "trap": r"__trap\(\)",
    "exception": r"vector",
}
# Which thread it has to be, where there is only one.
CULPRIT = {
    "past_shared": "thread (9, 0, 0)",
    "stack_overflow": "thread (3, 0, 0)",
    "own_lane_missing": "thread (31, 0, 0)",
    "trap": "block (2, 0, 0), thread (1, 0, 0)",
    "exception": "thread (4, 0, 0)",
}


# Of sm_90's instructions (tests/simt/hopper_wrong.cpp).
IN_FLIGHT = r"(read|write) of bytes that a bulk copy still has in flight"
RACE = r"race in shared memory"
HOPPER_WRONG = {
    "bulk_missing_wait": rf"{IN_FLIGHT}|{RACE}",
    "bulk_missing_expect": IN_FLIGHT,
    "bulk_missing_init_fence": r"bulk copy: its mbarrier was not made known by fence\.mbarrier_init",
    "bulk_missing_arrival": r"deadlock, .* 64 threads at the mbarrier at offset 8192 .*1 of 1 arrivals missing",
    "bulk_wrong_alignment": r"its place in shared memory, offset 128, is not aligned to 1024",
    "bulk_too_many_bytes": r"deadlock, .* at the mbarrier .* 16 bytes to come",
    "bulk_too_few_bytes": r"deadlock, .* at the mbarrier .* -16 bytes to come",
    "im2col_outside_the_box": r"im2col: position 6 of axis 0 is outside the bounding box",
    "im2col_offset": r"im2col: an offset of more than 255",
    "im2col_of_tiles": r"im2col: a tensor map of tiles",
    "mbarrier_wrong_count": r"deadlock, .* at the mbarrier .* 1 of 2 arrivals missing, 0 bytes to come",
    "mbarrier_wrong_parity": rf"{IN_FLIGHT}|{RACE}",
    "mbarrier_missing_init": r"mbarrier\.try_wait: no mbarrier was initialised at offset 8192",
    "bulk_waited_for_by_another": rf"{IN_FLIGHT}|{RACE}.* which a bulk copy that it has not waited for wrote",
    "bulk_missing_empty": rf"{IN_FLIGHT}|{RACE}",
    "store_missing_proxy_fence": r"wrote by ordinary stores, without fence\.proxy\.async after them",
    "line_missing_proxy_fence": r"cp\.reduce\.async\.bulk reads .* without fence\.proxy\.async after them",
    "line_written_over_early": r"cp\.async\.bulk \(store\) reads .* without fence\.proxy\.async after them",
    "line_unaligned": r"cp\.reduce\.async\.bulk: its addresses or size are no multiples of 16 bytes",
    "store_missing_wait": r"ended with 1 bulk store that it never waited for",
    "wgmma_missing_fence": r"wgmma\.mma_async without wgmma\.fence before it",
    "wgmma_missing_wait": r"ended with a wgmma that it never waited for",
    "wgmma_touched_sums": r"wgmma: its sums were written before the wait for them",
    "wgmma_touched_left": r"wgmma: the registers of its left factor were written before the wait for it",
    "wgmma_missing_proxy_fence": r"wgmma reads shared memory at offset \d+ that thread .* without fence\.proxy\.async",
    "wgmma_lanes_disagree": r"wgmma: the threads of a warp disagree on their products",
    "wgmma_early_release": rf"{IN_FLIGHT}|{RACE}",
    "cluster_block_has_ended": r"ld\.shared::cluster: the block whose shared memory it is has ended",
    "store_async_not_expected": r"deadlock, .* at the mbarrier .* 1 of 1 arrivals missing, -8 bytes to come",
    "store_async_to_two_blocks": r"st\.async: its address and its mbarrier have to be mapped to one block",
    "cluster_missing_wait": r"barrier\.cluster\.arrive twice without a wait",
    "cluster_one_does_not_come": r"deadlock, .* 63 threads at barrier\.cluster\.wait \(127 threads arrived\)",
}


@pytest.mark.parametrize("seed", ["1", "8"])
@pytest.mark.parametrize("name", HOPPER_WRONG)
def test_wrong_use_of_hopper_is_named(program, name, seed):
    printed = run(program("hopper_wrong"), name, FASTDL_SIMT_SEED=seed)
    assert re.match(rf"Error: kernel {name}, {THREAD}: .*?({HOPPER_WRONG[name]})", printed), printed


@pytest.mark.parametrize("seed", ["1", "8"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_is_named(program, name, seed):
    printed = run(program("wrong"), name, FASTDL_SIMT_SEED=seed)
    assert re.match(rf"Error: kernel {name}, {THREAD}: .*?({WRONG[name]})", printed), printed
    assert CULPRIT.get(name, "") in printed


@pytest.mark.parametrize(
    "name, message",
    [
        ("too_many_threads", "the block (1024, 2, 1) exceeds 1024 threads"),
        ("too_much_shared", "232449 bytes of shared memory exceed 232448"),
        ("too_tall_grid", "the grid (1, 65536, 1) exceeds"),
        ("empty_grid", "an empty grid, (4, 0, 1)"),
    ],
)
def test_launch_no_device_would_accept(program, name, message):
    assert f"Error: launch of kernel {name}: {message}" in run(program("wrong"), name)


def test_faults_elsewhere_are_described(program):
    printed = run(program("wrong"), "null_pointer")
    assert re.search(
        r"fault at address .* in kernel null_pointer, block \(1, 0, 0\), thread \(6, 0, 0\)", printed
    )


def test_log_of_entered_kernels(program, tmp_path):
    log = tmp_path / "kernels.txt"
    run(program("right"), "registry", "registry", FASTDL_SIMT_LOG=str(log))
    assert log.read_text().split() == ["first_kernel", "second_kernel"]


def test_one_block_alone(program):
    """FASTDL_SIMT_BLOCK, for debugging: the block with the mistake does not run."""
    assert "done" in run(program("wrong"), "trap", FASTDL_SIMT_BLOCK="1,0,0")
    assert "__trap" in run(program("wrong"), "trap", FASTDL_SIMT_BLOCK="2,0,0")


ASAN = "-fsanitize=address"


def test_right_kernels_under_address_sanitizer(program):
    names = [n for n in _names("right") if n not in ("registry", "out_of_memory")]
    printed = run(program("right", ASAN), *names, ASAN_OPTIONS="detect_stack_use_after_return=0")
    assert printed.split() == [word for name in names for word in (f"{name}:", "done")], printed


@pytest.mark.parametrize(
    "name", ["past_shared", "stack_overflow", "missing_barrier", "exception", "never_waited"]
)
def test_wrong_kernel_is_named_under_address_sanitizer(program, name):
    printed = run(program("wrong", ASAN), name)
    assert re.search(rf"kernel {name}, {THREAD}: .*?({WRONG[name]})", printed), printed


@pytest.mark.parametrize(
    "name, kind",
    [("past_device_memory", "heap-buffer-overflow"), ("past_local_array", "stack-buffer-overflow")],
)
def test_address_sanitizer_sees_into_kernels(program, name, kind):
    printed = run(program("wrong", ASAN), name)
    assert f"AddressSanitizer: {kind}" in printed and f"{name}()" in printed


def test_example(tmp_path):
    """docs/simt.md's worked example, with and without its mistake, and under gdb."""
    build = [ROOT / "examples/simt/build.sh", ROOT / "examples/simt/row_sums.cu"]
    environment = {**os.environ, "CXX": COMPILER, "FASTDL_SIMT_THREADS": "1"}
    subprocess.run(build, cwd=tmp_path, env=environment, check=True)
    assert run(tmp_path / "row_sums") == "".join(f"row {r}: {2997 + r}\n" for r in range(5))
    subprocess.run([*build, "-DMISTAKE"], cwd=tmp_path, env=environment, check=True)
    assert "race in shared memory: it reads 4 bytes" in run(tmp_path / "row_sums")
    if not shutil.which("gdb"):
        return
    commands = ["set confirm off", f"source {ROOT}/examples/simt/gdb.py", "break fastdl::simt::fail", "run"]
    commands += ["frame function row_sums", "simt threads", "simt bt 3", "bt"]
    arguments = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-q", "-batch", *arguments, "./row_sums"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    if "fail (what=" not in done.stdout:
        return  # a gdb that may not trace, in a container, or that has no Python
    assert re.search(r"^#\d+ .*__syncthreads \(\)", done.stdout, re.MULTILINE), done.stdout  # thread 3
    assert re.search(r"^ +30 \(30, 0, 0\) running$", done.stdout, re.MULTILINE)
    assert re.search(r"^#\d+ .*row_sums \(columns=1000", done.stdout, re.MULTILINE)
