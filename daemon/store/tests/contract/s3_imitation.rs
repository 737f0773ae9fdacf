//! S3 against an imitation in this process (s3s-fs): quick, and without the points it cannot do.
//!
//! Left out: the races, since s3s-fs looks first and writes after; long keys, which become too long
//! file names there; reading the folder of an object, which it answers with 500. It also accepts
//! what real servers refuse, so the real server's test (`s3_server`) is the one that counts.

use std::sync::Arc;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder as Server,
};
use lifeboat_store::{
    Prefix,
    s3::{AccessKey, S3, Settings},
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    conformance::{self, Shared},
    held_to,
};

const ID: &str = "an-access-key";
const SECRET: &str = "its-secret";
const BUCKET: &str = "boats";

/// Keeps the server and its data.
struct Keep {
    _server: JoinSet<()>,
    _data: tempfile::TempDir,
}

async fn open() -> (Shared, Keep) {
    let data = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(data.path().join(BUCKET)).expect("the bucket is made");
    let files = s3s_fs::FileSystem::new(data.path()).expect("the imitation opens its folder");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(ID, SECRET));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!(
        "http://{}",
        listener.local_addr().expect("the port is known")
    );
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            connections.spawn(async move {
                let server = Server::new(TokioExecutor::new());
                // A client that goes away is no failure of the test.
                drop(server.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    let store = S3::open(Settings {
        bucket: BUCKET.to_owned(),
        prefix: Prefix::new("some/prefix").expect("a valid prefix"),
        endpoint: Some(endpoint),
        region: None,
        path_style: None,
        credentials: Some(AccessKey {
            id: ID.to_owned(),
            secret: SECRET.to_owned(),
        }),
    });
    (
        Arc::new(store.await),
        Keep {
            _server: server,
            _data: data,
        },
    )
}

held_to!(open:
    conformance::what_was_put_is_read,
    conformance::put_replaces,
    conformance::what_is_absent_is_not_found,
    conformance::delete_deletes,
    conformance::get_is_bounded,
    conformance::ranges_are_exact,
    conformance::create_is_refused_where_something_is,
    conformance::replace_needs_the_current_version,
    conformance::replace_of_nothing_is_a_conflict,
    conformance::replace_with_a_foreign_version_is_a_conflict,
    conformance::lists_are_in_byte_order,
    conformance::lists_tell_size_and_age,
    conformance::lists_have_pages,
    conformance::packs_go_in_parallel,
    conformance::describe_tells_where,
);
