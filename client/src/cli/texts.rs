//! The parts of the help that teach by example.

/// What the program is for.
pub(super) const ABOUT: &str = "Keep programs alive on machines that are taken away";

/// After the help of everything.
pub(super) const EXAMPLES: &str = "\
Examples:
  lifeboat run --workload cache -- redis-server --save ''
      run a program that can move: on this machine now, on another one after `evacuate`
  lifeboat list
      what runs here, and how long it would take to save it
  lifeboat evacuate --all --within 25s
      save everything and end it here; run the same commands on another machine to go on
  lifeboat list --output json | jq -r '.[] | select(.time_to_safe_ms > 20000) | .name'
      workloads that would not make a short notice

Exit codes:
  0  done
  1  failed; what was asked for did not happen, and the message says why
  2  wrong usage
  3  a deadline was missed
  4  the daemon cannot be reached
`lifeboat run` returns the program's own exit code instead; see `lifeboat run --help`.";

/// After the help of `run`.
pub(super) const RUN_EXAMPLES: &str = "\
If the workload has a committed checkpoint, it goes on from there; otherwise the command is
started. Its standard streams, signals and exit code pass through, so `lifeboat run … -- CMD` can
stand wherever CMD stood. When the command ends, processes that it left behind are ended too.

Examples:
  lifeboat run --workload cache --preserve /var/lib/cache -- redis-server /etc/cache.conf
  lifeboat run --workload job-7 --checkpoint-every 5m -- python3 train.py
  lifeboat run --workload shell -- bash
      a program with a terminal

Exit codes:
  the program's own, or 128 and the number of the signal that ended it
  75   the workload was evacuated: run the same command again on another machine
  170  the command could not be started
  171  a restore failed; the checkpoint is intact

Environment:
  LIFEBOAT_IN_PLACE=1  make no namespaces (in containers whose first process is another one)";

/// After the help of `prefetch`.
pub(super) const PREFETCH_EXAMPLES: &str = "\
A standby node that has the latest checkpoint fetches only what changed since then when the workload
is evacuated to it. What is kept is bounded by `bytes` of [warm] in the daemon's configuration;
`lifeboat status` shows it.

Examples:
  lifeboat prefetch cache
  lifeboat prefetch cache --every 30s
      keep up with newer checkpoints";

/// After the help of `evacuate`.
pub(super) const EVACUATE_EXAMPLES: &str = "\
A workload is ended only after its checkpoint is durable and committed. On any failure before
that it runs on, and the outcome says so.

Outcomes:
  evacuated       saved, and ended here
  failed-running  not saved; runs on
  skipped         no time for it; runs on
  gone            ended by itself meanwhile
  unknown         frozen until the daemon knows whether the commit went through
  taken-over      another node has it: it was frozen here for so long, and ended

Examples:
  lifeboat evacuate cache
  lifeboat evacuate --all --within 25s
  lifeboat evacuate --all --output json | jq -r 'select(.outcome != \"evacuated\") | .workload'";

/// After the help of `checkpoint`.
pub(super) const CHECKPOINT_EXAMPLES: &str = "\
Examples:
  lifeboat checkpoint cache
  lifeboat checkpoint --all --output json | jq '{workload, freeze_ms, uploaded_bytes}'";

/// After the help of `drill`.
pub(super) const DRILL_EXAMPLES: &str = "\
Everything is done as for a notice, under a name of its own, except that the workloads run on. A
notice that comes meanwhile calls it off. With `interval` of [drill] in its configuration the daemon
rehearses by itself; `lifeboat status` shows how the last ones went.

Examples:
  lifeboat drill --all --within 30s
      would everything be safe in time?
  lifeboat status --output json | jq .drill
      what the last ones have shown";

/// After the help of `notice`.
pub(super) const NOTICE_EXAMPLES: &str = "\
The command returns when the notice was taken in. What follows is what follows when the cloud says
so: all workloads are saved, the more important ones first, and end here; each `lifeboat run`
returns 75. What fails is tried again until the time is over. `lifeboat list` and the daemon's log
tell what becomes of them. Use `lifeboat evacuate` to wait for the outcomes, or to choose workloads,
and `lifeboat drill` to only see whether the time would do. Notices add up: the earliest deadline
counts, and the machine is safe again only when all who gave notice have taken it back. Only root
gives notice.

Examples:
  lifeboat notice preemption --within 25s
      this machine will be gone in 25 seconds: save everything now
  lifeboat notice early
      it may be gone soon: copy memory ahead as fast as it goes
  lifeboat notice --withdraw
      it stays after all: what is not committed yet runs on
  lifeboat notice maintenance --pod \"$(kubectl get pod db-0 -o jsonpath='{.metadata.uid}')\"
      only the workloads of one pod";

/// After the help of `list`.
pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  lifeboat list
  lifeboat list --output json | jq '.[] | {name, unsaved_bytes, time_to_safe_ms}'";

/// After the help of `status`.
pub(super) const STATUS_EXAMPLES: &str = "\
Examples:
  lifeboat status
      the node: store, versions, upload rate, pending notice
  lifeboat status cache
      one workload, and what would keep it from being saved";
