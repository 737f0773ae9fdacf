//! systemd-logind, played on a real bus of its own.

use std::{
    io::{BufRead as _, BufReader},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use lifeboat_metadata::Control;
use lifeboat_watch::{Answered, Kind, Source};
use zbus::{Connection, connection::Builder, interface, zvariant};

use super::support::{LIMIT, Watched, nobody};

const PATH: &str = "/org/freedesktop/login1";

/// A bus; it ends with this value.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    fn start() -> Self {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed (deploy/setup.sh --tests)");
        let mut address = String::new();
        let output = daemon.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut address).unwrap();
        Self {
            daemon,
            address: address.trim().to_owned(),
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// logind, as far as inhibitor locks go: it keeps the other ends of them.
#[derive(Default)]
struct Played {
    locks: Arc<Mutex<Vec<std::os::unix::net::UnixStream>>>,
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Played {
    fn inhibit(&self, what: &str, _who: &str, _why: &str, mode: &str) -> zvariant::OwnedFd {
        assert_eq!((what, mode), ("shutdown", "delay"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.locks.lock().unwrap().push(ours);
        OwnedFd::from(theirs).into()
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> u64 {
        10_000_000
    }
}

/// How many locks are held.
fn held(locks: &Mutex<Vec<std::os::unix::net::UnixStream>>) -> usize {
    let mut byte = [0];
    let is_held = |lock: &&std::os::unix::net::UnixStream| {
        // The end of a stream is read as nothing; while it is open, there is nothing to read yet.
        !matches!(std::io::Read::read(&mut &**lock, &mut byte), Ok(0))
    };
    locks.lock().unwrap().iter().filter(is_held).count()
}

async fn until_held(locks: &Mutex<Vec<std::os::unix::net::UnixStream>>, count: usize) {
    let looks = async {
        while held(locks) != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, looks).await.unwrap();
}

async fn prepare(logind: &Connection, begins: bool) {
    let interface = "org.freedesktop.login1.Manager";
    let nobody = None::<&str>;
    logind
        .emit_signal(nobody, PATH, interface, "PrepareForShutdown", &begins)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_shutdown_waits_until_everything_is_saved() {
    let bus = Bus::start();
    let played = Played::default();
    let locks = Arc::clone(&played.locks);
    let logind = Builder::address(&*bus.address).unwrap();
    let logind = logind.name("org.freedesktop.login1").unwrap();
    let logind = logind
        .serve_at(PATH, played)
        .unwrap()
        .build()
        .await
        .unwrap();
    let mut config = nobody();
    config.logind.enabled = true;
    config.logind.bus = Some(bus.address.clone());
    let mut watched = Watched::of(Control::default(), config);
    until_held(&locks, 1).await;
    watched
        .board_shows(|all| {
            all.iter()
                .any(|one| one.source == Source::Logind && one.works())
        })
        .await;
    prepare(&logind, true).await;
    let notice = watched.given().await;
    assert_eq!(notice.kind, Kind::Maintenance);
    // No longer than logind waits.
    let left = notice.remaining().unwrap();
    assert!(left < Duration::from_secs(10), "{left:?}");
    watched.nothing().await;
    assert_eq!(held(&locks), 1);
    watched.watching.answered.send_replace(Answered {
        number: notice.number,
        workloads: 1,
        saved: 1,
    });
    until_held(&locks, 0).await;
    // Called off: the machine is guarded again.
    prepare(&logind, false).await;
    watched.withdrawn().await;
    until_held(&locks, 1).await;
}
