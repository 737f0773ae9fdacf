//! Restores that fail or are given up, and the workload's streams.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{
    Images, Run, Scratch, bundle, counting,
    hold::{Hold, eventually},
    memory::Pages,
    restore,
    server::Server,
};
use lifeboat_criu::{Refusal, Restore, RestoreError, RestoreRequest};

/// A dumped and killed tree.
async fn dumped(arguments: &[&str]) -> (Hold, Run, std::collections::BTreeMap<u32, Pages>) {
    let hold = counting(arguments);
    eventually("a few rounds", || hold.unread() > 50);
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
    (hold, run, pages)
}

fn start(new: &Hold, old: &Hold, images: &Images) -> (Scratch, RestoreRequest, Arc<Images>) {
    let scratch = Scratch::new();
    let mut request = RestoreRequest::new(new.namespaces(), scratch.work_dir());
    request.inherit = new.instead_of(old.inodes());
    (scratch, request, Arc::new(images.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_streams_is_neither_lost_nor_repeated() {
    let mut hold = counting(&["8"]);
    hold.type_line("typed before");
    eventually("a few rounds", || hold.unread() > 100);
    let run = Run::new(&hold, &[hold.root]);
    let described = run.described(run.request(&hold)).await;
    let [stdin, stdout] = hold
        .inodes()
        .map(|inode| u32::try_from(inode).expect("small"));
    let pipes = described.images().pipe_data().expect("decoded");
    assert_eq!(
        pipes.get(&stdin).map(|data| &data[..]),
        Some(&b"typed before\n"[..])
    );
    assert!(
        !pipes.contains_key(&stdout),
        "what was printed stays with the old hold"
    );
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
    let first = new.round();
    let mut printed = vec![hold.round()];
    while printed.last() != Some(&(first - 1)) {
        printed.push(hold.round());
    }
    assert!(
        printed.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{printed:?}"
    );
    assert!(hold.is_silent(), "nothing of the new place went to the old");
    for round in first + 1..first + 20 {
        assert_eq!(new.round(), round);
    }
    assert!(
        new.is_alive(hold.root),
        "and unread input was not replayed into it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_workload_reads_from_its_new_input() {
    let (hold, run, pages) = dumped(&["8", "echo"]).await;
    let mut new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    new.type_line("hello");
    while new.line() != "echo hello" {}
    new.round();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_tree_that_is_given_up_is_killed_and_can_be_restored_again() {
    let (hold, run, pages) = dumped(&["8"]).await;
    for how in ["abort", "drop"] {
        let new = Hold::empty();
        let (_scratch, request, source) = start(&new, &hold, &run.images);
        let restore = Restore::start(&bundle(), request, source).await;
        let (restore, events) = restore.expect("criu starts");
        let server = tokio::spawn(Server::new(pages.clone()).run(events));
        let rebuilt = restore.rebuilt().await.expect("rebuilt");
        eventually("the process is there", || new.is_alive(hold.root));
        match how {
            "abort" => rebuilt.abort().await.expect("criu ends"),
            _ => drop(rebuilt),
        }
        eventually("the process is gone", || !new.is_alive(hold.root));
        let (finished, _) = server.await.expect("no panic");
        assert!(!finished, "a restore that failed does not look finished");
        assert_eq!(new.unread(), 0, "it has not run");
    }
    let new = Hold::empty();
    restore(&new, hold.inodes(), &run.images, pages).await;
    new.round();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_has_the_workload_s_pids_in_use_refuses_it() {
    let (hold, run, _) = dumped(&["8"]).await;
    let new = counting(&["1"]);
    let (_scratch, request, source) = start(&new, &hold, &run.images);
    let restore = Restore::start(&bundle(), request, source).await;
    let (restore, _events) = restore.expect("criu starts");
    let error = restore.rebuilt().await.expect_err("taken");
    let summary = error.summary().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(summary.refusal, Some(Refusal::PidTaken), "{summary}");
    new.round();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lacks_a_file_or_is_cut_short_fails_cleanly() {
    let (hold, run, _) = dumped(&["8"]).await;
    let core = format!("core-{}.img", hold.root);
    for cut in [true, false] {
        let images = run.images.without(&core, cut);
        let new = Hold::empty();
        let (_scratch, request, source) = start(&new, &hold, &images);
        let restore = Restore::start(&bundle(), request, source).await;
        let (restore, _events) = restore.expect("criu starts");
        let error = restore.rebuilt().await.expect_err("incomplete");
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
        assert!(!new.is_alive(hold.root));
    }
}
