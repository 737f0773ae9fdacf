//! Small forms of the scenarios, against the daemon that the tests run on.
//!
//! Needs root, the CRIU bundle, and an installation of this tree's build: `deploy/test.sh` makes one
//! and names it in `LIFEBOAT_TEST_PREFIX`. Without that variable, what `cargo build` left is taken.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Folder of the daemon and the programs that go with it.
fn prefix() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_lifeboat-bench"));
    let folder = match std::env::var_os("LIFEBOAT_TEST_PREFIX") {
        Some(folder) => PathBuf::from(folder).join("bin"),
        None => bench.parent().unwrap().to_owned(),
    };
    let daemon = folder.join("lifeboatd");
    assert!(
        daemon.exists(),
        "{} is not there: run deploy/test.sh",
        daemon.display()
    );
    folder
}

#[track_caller]
fn run(arguments: &[&str]) -> Value {
    run_with(arguments, &[])
}

#[track_caller]
fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat-bench"))
        .arg("run")
        .args(arguments)
        .envs(environment.iter().copied())
        .arg("--prefix")
        .arg(prefix())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{arguments:?}: {}\n{out}\n{err}",
        output.status
    );
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

#[test]
fn the_daemon_stays_small_while_a_large_workload_moves() {
    let shape = [
        "--size",
        "1GiB",
        "--entropy",
        "30",
        "--threads",
        "2",
        "--processes",
        "2",
    ];
    let figures = run(&[&["daemon-memory"][..], &shape].concat());
    // The workload is several times as large as what the daemon may have.
    assert_eq!(figures["workload_bytes"], 1_u64 << 30);
    assert_eq!(figures["limit_bytes"], 256_u64 << 20);
    assert!(
        figures["evacuate_peak_bytes"].as_u64().unwrap() < 256 << 20,
        "{figures}"
    );
    assert!(
        figures["restore_peak_bytes"].as_u64().unwrap() < 256 << 20,
        "{figures}"
    );
    // And the daemon has really read it.
    let read = figures["evacuation"]["read_bytes"].as_u64().unwrap();
    assert!(read > 1_000_000_000, "{figures}");
}

#[test]
fn what_was_written_last_is_read_at_the_freeze_and_nothing_else() {
    let figures = run(&["freeze", "--sizes", "32MiB,128MiB", "--dirty", "8MiB"]);
    for size in figures["sizes"].as_array().unwrap() {
        assert!(size["freeze_ms"].as_u64().unwrap() > 0, "{figures}");
        let read = size["read_bytes"].as_u64().unwrap();
        assert!((8 << 20..20 << 20).contains(&read), "{figures}");
    }
    assert!(
        figures["checks"][1]["value"].as_f64().unwrap() > 0.0,
        "{figures}"
    );
}

#[test]
fn an_evacuation_is_measured_beside_its_peers() {
    let figures = run(&["evacuate", "--size", "128MiB", "--dirty-rate", "4MiB"]);
    for contestant in ["lifeboat", "cold", "stock"] {
        let safe_ms = &figures[contestant][0]["safe_ms"];
        assert!(safe_ms.as_u64().is_some_and(|ms| ms > 0), "{figures}");
    }
    // The memory was in the store already.
    let read = |contestant: &str| {
        figures[contestant][0]["details"]["read_bytes"]
            .as_u64()
            .unwrap()
    };
    assert!(read("cold") > 128 << 20, "{figures}");
    assert!(read("lifeboat") < 100 << 20, "{figures}");
}

#[test]
fn a_delta_is_measured_beside_its_pages_and_a_silent_rewrite_sends_nothing() {
    let figures = run(&["delta-size", "--size", "64MiB", "--deltas", "4MiB"]);
    let sent = |one: &Value| one["sent_bytes"].as_u64().unwrap();
    let delta = &figures["deltas"][0];
    let compressed = delta["compressed_bytes"].as_u64().unwrap();
    let nothing = sent(&figures["nothing"]);
    // Half of each page is noise.
    assert!((2 << 20..4 << 20).contains(&compressed), "{figures}");
    assert!(sent(delta) > nothing + (1 << 20), "{figures}");
    let silent = &figures["silent"];
    assert!(
        silent["read_bytes"].as_u64().unwrap() >= 4 << 20,
        "{figures}"
    );
    assert!(sent(silent) < nothing + (1 << 20), "{figures}");
}

#[test]
fn an_idle_workload_is_watched() {
    let figures = run(&["idle-cost", "--size", "64MiB", "--seconds", "1"]);
    assert!(
        figures["tracked_bytes"].as_u64().unwrap() >= 64 << 20,
        "{figures}"
    );
    assert!(
        figures["memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{figures}"
    );
    assert!(
        figures["processor_percent"].as_f64().unwrap() < 100.0,
        "{figures}"
    );
}

#[test]
fn the_pipeline_captures_what_the_plain_loop_reads() {
    let figures = run(&["capture", "--size", "64MiB", "--rounds", "1"]);
    assert!(figures["bytes"].as_u64().unwrap() >= 64 << 20, "{figures}");
    assert!(figures["share"].as_f64().unwrap() > 0.0, "{figures}");
}

#[test]
fn redis_and_a_writer_work_with_pre_copy_and_without() {
    let figures = run(&["cost", "--size", "16MiB", "--seconds", "1"]);
    for side in ["with", "without"] {
        for mix in ["skewed", "uniform"] {
            let rate = &figures[mix][side][0];
            assert!(rate["per_second"].as_u64().unwrap() > 0, "{figures}");
            assert!(
                rate["p99_us"].as_u64() >= rate["p50_us"].as_u64(),
                "{figures}"
            );
        }
        assert!(
            figures["writes"][side][0].as_u64().unwrap() > 0,
            "{figures}"
        );
    }
}

#[test]
fn redis_comes_back_both_ways_and_the_results_become_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, page) = (folder.path().join("lines"), folder.path().join("page.html"));
    let out = lines.to_str().unwrap();
    let figures = run(&["restore", "--sizes", "16MiB", "--out", out]);
    for contestant in ["lifeboat_ms", "stock_ms"] {
        assert!(
            figures["sizes"][0][contestant][0].as_u64().unwrap() > 0,
            "{figures}"
        );
    }
    let written = Command::new(env!("CARGO_BIN_EXE_lifeboat-bench"))
        .args(["report", out, "--out", page.to_str().unwrap()])
        .status();
    assert!(written.unwrap().success());
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains("<h2>restore</h2>") && page.contains("<rect"),
        "{page}"
    );
}

#[test]
fn the_move_and_its_counterpart_can_both_be_measured() {
    let shape = ["--size", "64MiB", "--dirty-rate", "1MiB", "--rounds", "1"];
    for scenario in ["leave", "come"] {
        let figures = run(&[&[scenario][..], &shape].concat());
        for contestant in ["lifeboat", "stock"] {
            let moved = &figures[contestant][0];
            for figure in [
                "freeze_ms",
                "safe_ms",
                "uploaded_bytes",
                "alive_ms",
                "verified_ms",
            ] {
                assert!(
                    moved[figure].as_u64().is_some_and(|one| one > 0),
                    "{figure}: {figures}"
                );
            }
        }
    }
}

#[test]
fn the_freeze_begins_soon_after_whoever_gives_notice() {
    let shape = ["--size", "64MiB", "--dirty-rate", "4MiB"];
    let times = ["--pushed", "20", "--others", "1"];
    let figures = run(&[&["notice"][..], &shape, &times].concat());
    assert_eq!(figures["gce"]["runs"], 20, "{figures}");
    for giver in ["gce", "call", "file", "aws", "azure", "sigpwr"] {
        let one = &figures[giver];
        assert!(one["p50_ms"].as_f64().unwrap() > 0.0, "{giver}: {figures}");
        // Debug builds on machines that do other things: an order of magnitude, not the acceptance.
        let limit = if matches!(giver, "aws" | "azure") {
            3000.0
        } else {
            2000.0
        };
        assert!(
            one["p50_ms"].as_f64().unwrap() < limit,
            "{giver}: {figures}"
        );
    }
}

/// Two nodes with networks of their own, the real server, and a client of both.
#[test]
fn the_gap_for_a_client_is_measured_from_answer_to_answer() {
    let variable = |name: &str| {
        let name = format!("LIFEBOAT_TEST_S3_{name}");
        std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: run deploy/test.sh"))
    };
    let (endpoint, region) = (variable("ENDPOINT"), variable("REGION"));
    let (id, secret) = (variable("ACCESS_KEY"), variable("SECRET_KEY"));
    make_bucket("lifeboat-bench", &endpoint, &region, (&id, &secret));
    let prefix_of_store = format!("handover-{}", std::process::id());
    let store =
        format!("s3://lifeboat-bench/{prefix_of_store}?endpoint={endpoint}&region={region}");
    let keys = [
        ("AWS_ACCESS_KEY_ID", &*id),
        ("AWS_SECRET_ACCESS_KEY", &*secret),
    ];
    let arguments = [
        "handover",
        "--sizes",
        "32MiB",
        "--megabits",
        "1000",
        "--store",
        &store,
    ];
    let figures = run_with(&arguments, &keys);
    let one = &figures["handovers"][0];
    assert!(one["gap_ms"].as_u64().unwrap() > 0, "{figures}");
    assert!(
        one["committed_ms"].as_i64() < one["first_answer_ms"].as_i64(),
        "{figures}"
    );
    assert!(one["margin_ms"].as_i64().unwrap() > 0, "{figures}");
}

/// Makes a bucket unless it is there.
fn make_bucket(bucket: &str, endpoint: &str, region: &str, (key, secret): (&str, &str)) {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new(key, secret, None, None, "test"))
        .force_path_style(true)
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let made = runtime.block_on(client.create_bucket().bucket(bucket).send());
    if let Err(error) = made {
        let error = error.into_service_error();
        assert!(error.is_bucket_already_owned_by_you(), "{error:?}");
    }
}
