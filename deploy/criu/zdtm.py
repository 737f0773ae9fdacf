#!/usr/bin/env python3
"""Lists CRIU's test programs and runs them through plain CRIU; use zdtm.sh, which fetches them.

Every test runs below an init of its own in fresh pid, mount and net namespaces: process IDs, ports and
terminals are then free at restore, zombies are reaped, and nothing survives the test. Lifeboat's hold does the same, so what fails
here already, fails because of CRIU or of this machine.
"""
import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import time

CRIU = os.environ.get("LIFEBOAT_CRIU", "/usr/lib/lifeboat/criu/bin/criu")
# By hand only, alone only, must be restored to pass, must not be dumpable, wants to be told of a dump.
SKIPPED_FLAGS = {"noauto", "excl", "reqrst", "crfail", "pre-dump-notify"}
LIMIT = 120  # seconds for one test; the longest takes about 20


def description(root, name):
    try:
        with open(f"{root}/zdtm/{name}.desc", encoding="utf-8") as file:
            text = file.read().strip()
    except FileNotFoundError:
        text = ""
    # Expressions, not only literals; whoever distrusts them should not run the programs either.
    return eval(text, {"os": os}) if text else {}  # noqa: S307


def runnable(root, name, features):
    path = f"{root}/zdtm/{name}"
    desc = description(root, name)
    flags = set(desc.get("flags", "").split())
    if "h" not in desc.get("flavor", "h").split() or flags & SKIPPED_FLAGS:
        return False
    if desc.get("arch", os.uname().machine) != os.uname().machine:
        return False
    # Tests with a hook prepare the machine around them (cgroups, firewalls, mounts).
    if os.path.exists(path + ".hook"):
        return False
    for feature in desc.get("feature", "").split():
        if feature not in features:
            check = [CRIU, "check", "--feature", feature]
            features[feature] = subprocess.run(check, capture_output=True, check=False).returncode == 0
        if not features[feature]:
            return False
    if os.path.exists(path + ".checkskip"):
        check = subprocess.run([path + ".checkskip"], capture_output=True, check=False, cwd=os.path.dirname(path))
        return check.returncode == 0
    return True


def names(root):
    features = {}
    for kind in ("static", "transition"):
        for file in sorted(os.listdir(f"{root}/zdtm/{kind}")):
            path = f"{root}/zdtm/{kind}/{file}"
            # A program is what has a source; "X.c" alone did not build.
            if os.path.isfile(path + ".c") and os.access(path, os.X_OK) and runnable(root, f"{kind}/{file}", features):
                yield f"{kind}/{file}"


def options(desc, side):
    return desc.get("opts", "").split() + desc.get(side, "").split()


class Failure(Exception):
    """A test that did not pass, and where."""


def reap(pid, limit):
    """As init: reap what dies until pid is gone, and then the rest of its tree: any zombie left over
    keeps its session's and its group's ID taken, too. (Some tests keep a peer alive outside of the tree.)"""
    end = time.monotonic() + limit
    rest = None
    while time.monotonic() < (rest or end):
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            break
        if rest is None and not os.path.exists(f"/proc/{pid}"):
            rest = time.monotonic() + 0.5
        time.sleep(0.005)
    return not os.path.exists(f"/proc/{pid}")


def may(capability):
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:")).split()[1]
    return bool(int(effective, 16) >> capability & 1)


def run(what, command, **keywords):
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, **keywords).returncode:
        raise Failure(what)


def one(root, name, logs):
    """Runs as init of the test's namespaces."""
    directory, test = os.path.split(f"{root}/zdtm/{name}")
    desc = description(root, name)
    make = ["make", "--no-print-directory", "-s", "-C", directory]
    env = dict(os.environ)
    # Without CAP_SYS_RESOURCE, CRIU may not read the limits of another user's process: then they stay root.
    if may(24) and "suid" not in desc.get("flags", "").split():
        # The users that the test programs expect to become.
        env.update(ZDTM_UID="18943", ZDTM_GID="58467", ZDTM_GROUPS="27495 48244")
    if name.startswith("transition/"):
        env["ZDTM_THREAD_BOMB"] = "5"
    with open(f"{logs}/test.log", "wb") as log:
        output = {"stdout": log, "stderr": log}
        run("cleanout", [*make, f"{test}.cleanout"], **output)
        run("SKIP", [*make, f"{test}.pid"], env=env, **output)
        pidfile = f"{directory}/{test}.pid"
        with open(pidfile, encoding="ascii") as file:
            pid = int(file.read())
        if name.startswith("transition/"):
            time.sleep(0.5)
        images = f"{logs}/images"
        shutil.rmtree(images, ignore_errors=True)
        os.mkdir(images)
        # nftables: through a library of the bundle; CRIU's default would run iptables, which may not be there.
        criu = ["-D", images, "-v2", "--pidfile", pidfile, "--network-lock", "nftables"]
        dump = [CRIU, "dump", "-t", str(pid), "-o", f"{logs}/dump.log", *criu, *options(desc, "dopts")]
        run("dump", dump, cwd=directory, **output)
        if not reap(pid, 10):
            raise Failure("still alive after the dump")
        os.unlink(pidfile)
        restore = [CRIU, "restore", "-d", "-o", f"{logs}/restore.log", *criu, *options(desc, "ropts")]
        run("restore", restore, cwd=directory, **output)
        with open(pidfile, encoding="ascii") as file:
            pid = int(file.read())
        os.kill(pid, signal.SIGTERM)
        if not reap(pid, 60):
            raise Failure("does not end")
        with open(f"{directory}/{test}.out", encoding="utf-8", errors="replace") as file:
            lines = file.read().strip().splitlines()
        if not lines or "PASS" not in lines[-1].split():
            raise Failure("result: " + (lines[-1].strip() if lines else "none"))
        shutil.rmtree(images)


def baseline(root, out, wanted):
    wanted = wanted or list(names(root))
    logs = os.path.abspath(out) + ".d"

    def isolated(name):
        own = f"{logs}/{name}"
        os.makedirs(own, exist_ok=True)
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net"]
        command = [*unshare, sys.executable, __file__, "one", root, name, own]
        start = time.monotonic()
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False)
            verdict = (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            verdict = "timeout"
        took = f"{time.monotonic() - start:.1f}s"
        # What does not even start lacks something of the machine: huge pages, a program, a capability.
        word = verdict if verdict in ("PASS", "SKIP") else "FAIL"
        return f"{word} {name} {took}" + (f" {verdict}" if word == "FAIL" else "")

    # Remaps of unlinked files appear in the directory that all tests share: these run alone.
    alone = [n for n in wanted if "--link-remap" in " ".join(str(v) for v in description(root, n).values())]
    lines = []
    with open(out, "w", encoding="utf-8") as file:
        for group, lanes in (([n for n in wanted if n not in alone], os.cpu_count()), (alone, 1)):
            with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
                for line in pool.map(isolated, group):
                    lines.append(line)
                    print(line, file=file, flush=True)
                    if line.startswith("FAIL"):
                        print(line, flush=True)
    passed, failed, skipped = (sum(line.startswith(word) for line in lines) for word in ("PASS", "FAIL", "SKIP"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")


def main(verb, root, *rest):
    if verb == "list":
        for name in names(root):
            desc = description(root, name)
            long = [desc.get("flags", ""), " ".join(options(desc, "dopts")), " ".join(options(desc, "ropts"))]
            print("\t".join([name, *long]) if "--long" in rest else name)
    elif verb == "baseline":
        baseline(root, rest[0], list(rest[1:]))
    elif verb == "one":
        # Descriptors from before the mount namespace cannot be dumped: take /dev/null anew.
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        run("loopback", ["ip", "link", "set", "lo", "up"])
        # Terminals have numbers, which must be free at restore as well.
        run("terminals", ["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "/dev/pts"])
        try:
            one(root, *rest)
            print("PASS")
        except (Failure, OSError, ValueError) as error:
            print(error)


main(*sys.argv[1:])
