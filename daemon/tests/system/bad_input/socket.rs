//! Nonsense on the daemon's socket, in both of its languages.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use lifeboat_proto::{
    HOLD_PREFACE,
    hold::{
        Exited, HoldSpec, Register, Spawn, Started, StreamPipe, ToDaemon, ToHold, to_daemon,
        to_hold,
    },
    v1::{
        self, checkpoint_service_client::CheckpointServiceClient,
        workload_service_client::WorkloadServiceClient,
    },
};
use prost::Message as _;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::support::{Hold, Node, TestStore, counter};

const SOON: Duration = Duration::from_secs(30);

/// How long the daemon may take to end a conversation that makes no sense.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(node: &Node) -> UnixStream {
    let stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says `bytes` and waits until the daemon ends the conversation.
fn say(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(node);
    // It may hang up before it has heard all.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{bytes:x?}"
        );
    }
    answer
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_le_bytes();
    [&HOLD_PREFACE[..], &length, message].concat()
}

fn to_daemon(message: to_daemon::Message) -> Vec<u8> {
    frame(
        &ToDaemon {
            message: Some(message),
        }
        .encode_to_vec(),
    )
}

/// The reason of a Failed message.
fn failure(answer: &[u8]) -> String {
    let (length, message) = answer.split_at_checked(4).expect("an answer");
    assert_eq!(
        u32::from_le_bytes(length.try_into().unwrap()) as usize,
        message.len()
    );
    match ToHold::decode(message).unwrap().message {
        Some(to_hold::Message::Failed(failed)) => failed.reason,
        other => panic!("{other:?}"),
    }
}

fn spec(workload: &str) -> Option<HoldSpec> {
    let argv = vec!["true".to_owned()];
    Some(HoldSpec {
        workload: workload.to_owned(),
        argv,
        ..HoldSpec::default()
    })
}

#[test]
fn nonsense_ends_the_conversation_and_nothing_else() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let hold = Hold::start(&node, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    let noise: Vec<u8> = (0..70_000u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let huge = [&HOLD_PREFACE[..], &u32::MAX.to_le_bytes()[..]].concat();
    let said: [&[u8]; 10] = [
        b"",
        b"L",
        &HOLD_PREFACE[..7],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &noise,
        &[&http2[..], &noise].concat(),
        &[&HOLD_PREFACE[..], &noise].concat(),
        &huge,
        &frame(&noise[..1000]),
        &frame(b""),
    ];
    for bytes in said {
        say(&node, bytes);
    }
    // Some who say nothing at all, while others are served.
    let silent: Vec<UnixStream> = (0..100).map(|_| connect(&node)).collect();
    assert!(node.run(&["list"]).status.success());
    drop(silent);
    hold.wait_for_more(3, SOON);
    node.evacuate("w");
}

#[test]
fn holds_that_make_no_sense_are_told_so() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let register = |register: Register| to_daemon(to_daemon::Message::Register(register));
    let instance = vec![7; 16].into();
    let good = Register {
        spec: spec("w"),
        instance,
        can_restore: true,
        ..Register::default()
    };
    let pipe = StreamPipe {
        stream: "stdout".to_owned(),
        inode: 1,
    };
    for (bytes, words) in [
        (
            to_daemon(to_daemon::Message::Started(Started { root_pid: 1 })),
            "Spawn or Register",
        ),
        (
            to_daemon(to_daemon::Message::Exited(Exited { wait_status: 0 })),
            "Spawn or Register",
        ),
        (
            to_daemon(to_daemon::Message::Spawn(Spawn { spec: None })),
            "no workload",
        ),
        (
            to_daemon(to_daemon::Message::Spawn(Spawn { spec: spec("w") })),
            "four descriptors",
        ),
        (register(Register::default()), "no workload"),
        (
            register(Register {
                spec: spec("../w"),
                ..good.clone()
            }),
            "../w",
        ),
        (
            register(Register {
                instance: vec![1].into(),
                ..good.clone()
            }),
            "16 bytes",
        ),
        (
            register(Register {
                streams: vec![pipe],
                ..good.clone()
            }),
            "1 streams",
        ),
    ] {
        let reason = failure(&say(&node, &bytes));
        assert!(reason.contains(words), "{words:?} is not in {reason:?}");
    }
    // Running already, as a process that is not there.
    say(
        &node,
        &register(Register {
            root_pid: 4_000_000,
            ..good
        }),
    );
    assert!(node.run(&["list"]).status.success());
}

async fn channel(node: &Node) -> Channel {
    let path = node.socket();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://lifeboat");
    endpoint.connect_with_connector(connector).await.unwrap()
}

fn everything(all: bool, names: &[&str]) -> v1::EvacuateRequest {
    let names = names.iter().map(ToString::to_string).collect();
    v1::EvacuateRequest {
        selection: Some(v1::Selection { all, names }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn names_that_are_none_are_refused_by_the_daemon() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let mut workloads = WorkloadServiceClient::new(channel(&node).await);
    for name in ["", "../x", "a/b", "\0", &"x".repeat(100_000)] {
        let get = workloads
            .get(v1::GetRequest {
                name: name.to_owned(),
            })
            .await;
        assert_eq!(get.unwrap_err().code(), Code::InvalidArgument, "{name:?}");
        let attach = v1::AttachRequest {
            name: name.to_owned(),
            pid: 1,
            ..Default::default()
        };
        let attached = workloads.attach(attach).await;
        assert_eq!(
            attached.unwrap_err().code(),
            Code::InvalidArgument,
            "{name:?}"
        );
    }
    for request in [
        everything(true, &["w"]),
        everything(false, &[]),
        everything(false, &[""]),
    ] {
        let evacuated = workloads.evacuate(request).await;
        assert_eq!(evacuated.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn budgets_that_are_none_are_refused() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let mut workloads = WorkloadServiceClient::new(channel(&node).await);
    for within in [
        None,
        Some((-1, 0)),
        Some((i64::MIN, i32::MIN)),
        Some((0, -5)),
        Some((0, i32::MAX)),
    ] {
        let within = within.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
        let budget = Some(v1::Budget { within });
        let request = v1::EvacuateRequest {
            budget,
            ..everything(true, &[])
        };
        let evacuated = workloads.evacuate(request).await;
        assert_eq!(
            evacuated.unwrap_err().code(),
            Code::InvalidArgument,
            "{within:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn checkpoints_that_are_none_are_refused() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let mut checkpoints = CheckpointServiceClient::new(channel(&node).await);
    for (workload, checkpoint) in [("", ""), ("w", "x"), ("../w", ""), ("w", "../../head")] {
        let name = v1::CheckpointName {
            workload: workload.to_owned(),
            checkpoint: checkpoint.to_owned(),
        };
        let request = v1::InspectRequest { name: Some(name) };
        let inspected = checkpoints.inspect(request).await;
        assert_eq!(
            inspected.unwrap_err().code(),
            Code::InvalidArgument,
            "{workload}/{checkpoint}"
        );
    }
    let delete = v1::DeleteRequest {
        name: None,
        force: true,
    };
    let deleted = checkpoints.delete(delete).await;
    assert_eq!(deleted.unwrap_err().code(), Code::InvalidArgument);
}
