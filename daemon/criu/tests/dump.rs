//! Dumps of real trees with the real CRIU.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Images, Scratch, bundle, hold::Hold, memory::Hider, server::Server};
use lifeboat_criu::{Dump, DumpRequest, Restore, RestoreRequest};

fn counting(arguments: &[&str]) -> Hold {
    let program = common::example("counting");
    let program = program.to_str().expect("text");
    Hold::run(&[&[program], arguments].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_tree_goes_on_elsewhere_from_hidden_and_streamed_pages() {
    let bundle = bundle();
    let hold = counting(&["64"]);
    let before = hold.round();
    let (images, scratch) = (Images::default(), Scratch::new());
    let hider = Hider::new(&hold, &[hold.root]);
    let request = DumpRequest::new(hold.root, hold.namespaces(), scratch.work_dir());

    let dump = Dump::start(
        &bundle,
        request,
        hider.clone(),
        std::sync::Arc::new(images.clone()),
    );
    let described = dump
        .await
        .expect("started")
        .described()
        .await
        .expect("described");
    let pages = hider.capture();
    assert!(pages[&hold.root].len() > 64 * 256, "all of it is hidden");
    assert!(
        images.total() < 4 << 20,
        "{} bytes: {:?}",
        images.total(),
        images.names()
    );
    eprintln!("{:?}", images.names());
    let committing = described.committing().await.expect("the hook hears");
    committing.release().await.expect("killed");
    assert!(!hold.is_alive(hold.root));

    let new = Hold::empty();
    let scratch = Scratch::new();
    let mut request = RestoreRequest::new(new.namespaces(), scratch.work_dir());
    request.inherit = new.instead_of(hold.inodes());
    let restore = Restore::start(&bundle, request, std::sync::Arc::new(images));
    let (restore, events) = restore.await.expect("started");
    let server = tokio::spawn(Server::new(pages).run(events));
    let restored = restore
        .rebuilt()
        .await
        .expect("rebuilt")
        .resume()
        .await
        .expect("resumed");
    assert_eq!(restored.root_pid, hold.root);
    assert_eq!(server.await.expect("served"), (true, vec![hold.root]));
    assert!(new.round() > before);
    (0..20).for_each(|_| drop(new.round()));
}
