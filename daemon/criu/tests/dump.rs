//! Real trees, dumped and restored with the real CRIU.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use common::{
    Run, counting,
    hold::{Hold, children, eventually, inner_pid},
    memory::Hider,
    restore, restore_with,
};
use lifeboat_criu::{TcpMode, images::coverage};
use lifeboat_proto::units::PageRun;

#[tokio::test(flavor = "multi_thread")]
async fn a_released_tree_goes_on_elsewhere_from_hidden_and_streamed_pages() {
    let hold = counting(&["24"]);
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    assert!(run.hider.was_told_of_the_freeze());
    assert_eq!(
        run.hider.short_cuts.load(Ordering::SeqCst),
        1,
        "CRIU did not read smaps"
    );
    assert!(hold.is_silent(), "held");
    let pages = run.hider.capture();
    assert!(pages[&hold.root].len() > 24 * 256, "all of it is hidden");
    assert!(run.images.total() < 4 << 20, "{} bytes", run.images.total());
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    assert!(!hold.is_alive(hold.root));

    let new = Hold::empty();
    assert_eq!(
        restore(&new, hold.inodes(), &run.images, pages).await,
        hold.root
    );
    assert!(new.round() > before);
    new.rounds(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_hidden_pages_are_every_page_exactly_once() {
    let hold = counting(&["8", "threads"]);
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let images = described.images();

    let tasks = images.tasks().expect("decoded");
    assert_eq!(tasks.len(), 1);
    assert_eq!(
        (tasks[0].pid, tasks[0].parent, tasks[0].zombie),
        (hold.root, 0, false)
    );
    assert_eq!(tasks[0].threads.len(), 4);
    let mappings = images.mappings(hold.root).expect("decoded");
    let hidden = run.hider.hidden.lock().expect("not poisoned")[&hold.root].clone();
    for run in &hidden {
        let lazy = mappings.iter().filter(|mapping| mapping.lazy);
        let inside: u64 = lazy
            .filter_map(|mapping| mapping.run.intersection(*run))
            .map(|run| run.pages)
            .sum();
        assert_eq!(
            inside, run.pages,
            "what was hidden is registered by a lazy restore: {run}"
        );
    }
    let captured = run.hider.capture();
    let present: Vec<PageRun> = captured[&hold.root]
        .keys()
        .map(|page| PageRun::new(*page, 1))
        .collect();
    let criu = images.captured_by_criu(hold.root).expect("decoded");
    assert!(!criu.is_empty(), "private file pages are CRIU's");
    coverage::check(&present, &hidden, &criu).expect("each once");
    assert!(images.cpu().expect("decoded").expect("written").xsave_bytes > 0);
    assert!(images.clocks().expect("decoded").monotonic.as_nanos() > 0);
    let files = images.open_files().expect("decoded");
    assert!(
        files
            .iter()
            .any(|file| file.path.as_ref().is_some_and(|p| p.ends_with("counting")))
    );

    let allowed = lifeboat_criu::images::AllowedCredentials::of_process(hold.init);
    let mut allowed = allowed.expect("the hold runs");
    let mut all = images.clone();
    run.images
        .names()
        .iter()
        .for_each(|name| all.insert(name.clone(), Default::default()));
    images
        .names()
        .for_each(|name| all.insert(name, images.get(name).expect("named").clone()));
    all.check_credentials(&allowed)
        .expect("the hold has what the tree has");
    all.check_reach(&allowed)
        .expect("it reaches nothing outside");
    allowed.uid = 1000;
    assert!(
        all.check_credentials(&allowed).is_err(),
        "root is more than a user"
    );
    described.abort().await.expect("resumed");
    hold.round();
}

#[tokio::test(flavor = "multi_thread")]
async fn kernels_without_pagemap_scan_are_filtered_too() {
    let hold = counting(&["16"]);
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut request = run.request(&hold);
    request
        .environment
        .push(("CRIU_FAULT".into(), "135".into()));
    let described = run.described(request).await;
    let pages = run.hider.capture();
    assert!(run.images.total() < 4 << 20, "{} bytes", run.images.total());
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_processes_threads_and_zombies_goes_on_whole() {
    let hold = counting(&["8", "fork", "threads", "zombie"]);
    let before = hold.round();
    let root = hold.outer_pid(hold.root).expect("runs");
    eventually("three children and grandchildren", || {
        children(root).len() == 3
    });
    // A child may have left its zombie before the next one is forked: numbers are no order.
    let living = children(root).into_iter().filter_map(inner_pid);
    let living = living.filter(|pid| hold.state(*pid) != Some('Z'));
    let pids: Vec<u32> = [hold.root].into_iter().chain(living).collect();
    assert_eq!(pids.len(), 3, "{pids:?}");
    let run = Run::new(&hold, &pids);
    let described = run.described(run.request(&hold)).await;
    let tasks = described.images().tasks().expect("decoded");
    let zombies: Vec<u32> = tasks
        .iter()
        .filter(|task| task.zombie)
        .map(|task| task.pid)
        .collect();
    assert_eq!(
        zombies.len(),
        3,
        "each of the three has left one: {tasks:?}"
    );
    let pages = run.hider.capture();
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    assert!(pids.iter().all(|pid| !hold.is_alive(*pid)));

    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(10);
    assert!(
        pids.iter().all(|pid| new.is_alive(*pid)),
        "none has found bad memory"
    );
    assert!(zombies.iter().all(|pid| new.state(*pid) == Some('Z')));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_with_a_page_aligned_stack_pointer_changes_nothing() {
    let hold = counting(&["16", "aligned"]);
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let pages = run.hider.capture();
    assert!(run.images.total() < 4 << 20, "{} bytes", run.images.total());
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_left_running_goes_on_here_and_its_copy_elsewhere() {
    let hold = counting(&["8"]);
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let mut request = run.request(&hold);
    request.leave_running = true;
    let described = run.described(request).await;
    let pages = run.hider.capture();
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("resumed");
    assert!(hold.round() > before);
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(5);
    hold.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_goes_through_the_images() {
    let hold = counting(&["8", "shared"]);
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let pages = run.hider.capture();
    assert!(run.images.total() > 8 << 20, "{} bytes", run.images.total());
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_can_be_hidden_and_put_back() {
    let hold = counting(&["8", "shared"]);
    let before = hold.round();
    let mut run = Run::new(&hold, &[hold.root]);
    run.hider = Arc::new(Hider::new(&hold, &[hold.root]).and_shared());
    let described = run.described(run.request(&hold)).await;
    let (pages, objects) = (run.hider.capture(), run.hider.capture_objects());
    assert_eq!(objects.values().map(BTreeMap::len).sum::<usize>(), 8 * 256);
    assert!(run.images.total() < 4 << 20, "{} bytes", run.images.total());
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(
        &new,
        hold.inodes(),
        &run.images.with_shared(&objects),
        pages,
    )
    .await;
    assert!(new.round() > before);
    new.rounds(5);
}

/// Programs with a connection of their own network.
fn talking(command: &[&str]) -> Hold {
    Hold::run_with(command, &[("HOLD_NET", "1")])
}

fn number(hold: &Hold) -> u64 {
    loop {
        let line = hold.line();
        assert_ne!(line, "tcp closed");
        if let Some(number) = line.strip_prefix("tcp ") {
            return number.parse().expect("a number");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn established_connections_are_closed_elsewhere() {
    let program = common::example("counting");
    let hold = talking(&[program.to_str().expect("text"), "8", "tcp"]);
    number(&hold);
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let pages = run.hider.capture();
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = talking(&[]);
    restore(&new, hold.inodes(), &run.images, pages).await;
    while new.line() != "tcp closed" {}
    new.rounds(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn established_connections_can_be_kept_and_are_after_an_abort() {
    let program = common::example("counting");
    let hold = talking(&[program.to_str().expect("text"), "8", "tcp"]);
    number(&hold);
    for released in [false, true] {
        let run = Run::new(&hold, &[hold.root]);
        let mut request = run.request(&hold);
        request.tcp = TcpMode::Keep;
        let described = run.described(request).await;
        if !released {
            described.abort().await.expect("criu ends");
            assert!(number(&hold) < number(&hold), "they are unlocked again");
            continue;
        }
        let pages = run.hider.capture();
        described
            .committing()
            .await
            .expect("the hook hears")
            .release()
            .await
            .expect("killed");
        let new = talking(&[]);
        restore_with(&new, hold.inodes(), &run.images, pages, TcpMode::Keep).await;
        assert!(number(&new) < number(&new));
        new.rounds(5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_periodic_timer_that_has_expired_goes_on() {
    let hold = counting(&["1", "timer"]);
    while hold.line() != "timer" {}
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let pages = run.hider.capture();
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    for _ in 0..3 {
        while new.line() != "timer" {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_s_tree_moves_and_stays_that_user_s() {
    let program = common::example("counting");
    let user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let hold = Hold::run(
        &[
            &user[..],
            &[program.to_str().expect("text"), "8", "threads"],
        ]
        .concat(),
    );
    let before = hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let pages = run.hider.capture();
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    assert!(new.round() > before);
    new.rounds(5);
    let outer = new.outer_pid(hold.root).expect("it runs");
    let own = lifeboat_criu::images::AllowedCredentials::of_process(outer).expect("it runs");
    assert_eq!((own.uid, own.gid, own.capabilities), (65534, 65534, 0));
    assert!(own.groups.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_ends_with_its_workload_takes_criu_with_it_and_that_is_no_failure() {
    let program = common::example("counting");
    let hold = Hold::run_with(
        &[program.to_str().expect("text"), "8"],
        &[("HOLD_ENDS", "1")],
    );
    hold.round();
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    described
        .committing()
        .await
        .expect("the hook hears")
        .release()
        .await
        .expect("killed");
    assert!(!hold.is_alive(hold.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_moves_on_from_where_it_was_moved_to() {
    let mut hold = counting(&["8", "threads"]);
    let mut inodes = hold.inodes();
    let mut round = hold.round();
    for _ in 0..3 {
        let root = common::FIRST_PID;
        let run = Run::new(&hold, &[root]);
        let mut request = run.request(&hold);
        request.inner_pid = root;
        let described = run.described(request).await;
        let images = described.images();
        assert!(images.clocks().expect("decoded").monotonic.as_nanos() > 0);
        let pages = run.hider.capture();
        described
            .committing()
            .await
            .expect("the hook hears")
            .release()
            .await
            .expect("killed");
        let new = Hold::empty();
        assert_eq!(restore(&new, inodes, &run.images, pages).await, root);
        let later = new.round();
        assert!(later > round);
        new.rounds(3);
        inodes = new.inodes();
        (hold, round) = (new, later);
    }
}
