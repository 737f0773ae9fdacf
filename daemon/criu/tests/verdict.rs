//! Who decides about a frozen tree, and what happens when somebody is lost.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{Run, bundle, counting, hold::eventually, memory::Hider};
use lifeboat_criu::{Dump, DumpError, ImageError, ImageSink, ImageWriter, Pending, Refusal};

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_runs_here_with_its_filter() {
    bundle().check().await.expect("criu check");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_dropped_at_any_moment_leaves_a_running_tree() {
    let hold = counting(&["8"]);
    for pause in [0, 20, 60, 100, 150] {
        hold.round();
        let run = Run::new(&hold, &[hold.root]);
        let dump = run.start(run.request(&hold)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        drop(dump);
        eventually("running", || {
            matches!(hold.state(hold.root), Some('S' | 'R'))
        });
        hold.rounds(5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_tree_runs_on_when_aborted_dropped_or_not_committed() {
    let hold = counting(&["8"]);
    for how in ["abort", "drop", "abort a commit"] {
        hold.round();
        let run = Run::new(&hold, &[hold.root]);
        let described = run.described(run.request(&hold)).await;
        assert!(hold.is_silent(), "held");
        match how {
            "abort" => described.abort().await.expect("criu ends"),
            "drop" => drop(described),
            _ => {
                let committing = described.committing().await.expect("the hook hears");
                assert!(hold.is_silent(), "held");
                committing.abort().await.expect("criu ends");
            }
        }
        hold.rounds(5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_whose_daemon_dies_in_a_commit_waits_for_its_successor() {
    let hold = counting(&["8"]);
    for released in [false, true] {
        hold.round();
        let run = Run::new(&hold, &[hold.root]);
        let described = run.described(run.request(&hold)).await;
        drop(described.committing().await.expect("the hook hears"));
        assert!(hold.is_silent(), "frozen");
        assert_eq!(hold.state(hold.root), Some('t'));
        let first = Pending::adopt(&run.scratch.work_dir())
            .await
            .expect("a socket");
        drop(first.expect("the hook is there"));
        assert!(
            hold.is_silent(),
            "a second daemon that dies changes nothing"
        );

        let pending = Pending::adopt(&run.scratch.work_dir())
            .await
            .expect("a socket");
        let pending = pending.expect("the hook is there");
        if released {
            pending.release().await.expect("criu ends");
            assert!(!hold.is_alive(hold.root));
        } else {
            pending.abort().await.expect("criu ends");
            hold.rounds(5);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_to_be_left_running_runs_on_when_its_daemon_dies_in_a_commit() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut request = run.request(&hold);
    request.leave_running = true;
    drop(
        run.described(request)
            .await
            .committing()
            .await
            .expect("the hook hears"),
    );
    hold.rounds(5);
    let nobody = Pending::adopt(&run.scratch.work_dir())
        .await
        .expect("a socket");
    assert!(nobody.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_that_fails_aborts_the_dump_and_is_the_reason() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let failing = Arc::new(Hider::failing());
    let sink = Arc::new(run.images.clone());
    let dump = Dump::start(&bundle(), run.request(&hold), failing, sink)
        .await
        .expect("starts");
    let error = dump.described().await.expect_err("the delegate fails");
    assert!(matches!(error, DumpError::Filter { .. }), "{error:?}");
    hold.rounds(5);
}

struct FullSink;

#[async_trait]
impl ImageSink for FullSink {
    async fn open(&self, name: &str) -> Result<Box<dyn ImageWriter>, ImageError> {
        Err(format!("no room for {name}").into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_aborts_the_dump_and_is_the_reason() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let hider = Arc::clone(&run.hider);
    let dump = Dump::start(&bundle(), run.request(&hold), hider, Arc::new(FullSink)).await;
    let error = dump
        .expect("starts")
        .described()
        .await
        .expect_err("the sink fails");
    assert!(matches!(error, DumpError::Capture { .. }), "{error:?}");
    hold.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_takes_too_long_is_aborted() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut request = run.request(&hold);
    request.describe_within = Duration::from_millis(30);
    let error = run
        .start(request)
        .await
        .described()
        .await
        .expect_err("too late");
    assert!(matches!(error, DumpError::Late { .. }), "{error:?}");
    assert!(error.is_transient());
    hold.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_criu_cannot_do_is_said_in_one_sentence_and_the_tree_runs_on() {
    let hold = counting(&["8", "uring"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let error = run
        .start(run.request(&hold))
        .await
        .described()
        .await
        .expect_err("refused");
    let summary = error.summary().expect("criu refused");
    assert_eq!(summary.refusal, Some(Refusal::IoUring), "{summary}");
    assert!(!error.is_transient());
    hold.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_not_there_is_not_dumped() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut request = run.request(&hold);
    request.inner_pid = 77;
    let error = run
        .start(request)
        .await
        .described()
        .await
        .expect_err("nobody");
    assert!(matches!(error, DumpError::Refused { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_killed_lets_the_tree_run_on_and_is_noticed() {
    let hold = counting(&["8"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut described = run.described(run.request(&hold)).await;
    let hook = process_named("lifeboat-hook", hold.init);
    let killed = std::process::Command::new("kill")
        .args(["-9", &hook.to_string()])
        .status();
    assert!(killed.expect("kill(1) runs").success());
    let error = described.lost().await;
    assert!(
        matches!(error, DumpError::Hook { .. } | DumpError::Refused { .. }),
        "{error:?}"
    );
    hold.rounds(5);
    let error = described.committing().await.expect_err("nothing is held");
    assert!(matches!(error, DumpError::Hook { .. }), "{error:?}");
}

/// The process of this name in the PID namespace of `init`.
fn process_named(name: &str, init: u32) -> u32 {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    std::fs::read_dir("/proc")
        .expect("mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim() == name && namespace(*pid) == namespace(init)
        })
        .expect("it runs")
}
